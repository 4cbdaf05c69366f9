"""The command line: ``hunmin run``, ``chat``, ``train``, ``align``, ``curate``, ``judge``, ``quantize`` and what tells about models."""

from hunmin.cli.app import main as main
