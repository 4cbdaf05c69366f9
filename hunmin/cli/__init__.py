"""The command line: ``hunmin run``, ``chat``, ``tasks``, ``models``, ``names``, ``info`` and ``env``."""

from hunmin.cli.app import main as main
