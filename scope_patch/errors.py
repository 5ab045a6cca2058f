"""The exceptions that scope_patch raises on purpose. Each message says what happened and what to do next."""


class ScopePatchError(Exception):
    """Base of everything below: `except ScopePatchError` catches all that is ours and nothing of the host's."""


class UsageError(ScopePatchError):
    """An option, an environment variable or an argument cannot be used. The command line exits with 2."""


class NotApplied(ScopePatchError):  # noqa: N818 - the contract's name; it says the outcome, which "…Error" would blur
    """A host that was asked for by name (or under `--strict`) could not be patched; it runs unpatched otherwise."""
