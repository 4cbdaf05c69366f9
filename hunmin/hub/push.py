"""Uploading a saved model to the Hugging Face Hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hunmin.errors import SourceError, say
from hunmin.hub.files import answer, hub_error, patience

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload model",
    create_pr: bool = False,
    revision: str | None = None,
) -> str:
    """Upload the files of ``folder`` as one commit; the repository (and the branch ``revision``) is made when there is none.

    Returns the URL of the commit. Raises SourceError when the folder is absent or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    if not folder.is_dir():
        raise SourceError(say(f"{folder} is not a folder.", f"{folder}은(는) 폴더가 아닙니다."))
    api = HfApi(token=token)
    try:
        _reach(api, repo_id)
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id  # with the user's name where repo_id has none
        if revision and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=commit_message, create_pr=create_pr, revision=revision)
    except Exception as error:
        raise hub_error(repo_id, error, revision) from error
    return str(commit.commit_url)


def _reach(api: HfApi, repo_id: str) -> None:
    """Raise unless the Hub answers soon: an upload itself may take hours, so it has no time limit of its own."""
    from huggingface_hub.errors import HfHubHTTPError

    with suppress(HfHubHTTPError):  # "not found" is an answer too
        answer(lambda: api.model_info(repo_id, timeout=patience()))
