"""Other libraries' errors, as one line of ours."""


def first_line(error: Exception, *, limit: int | None = 200) -> str:
    """The first line of an error's text, or its representation where it has none."""
    return (str(error).strip() or repr(error)).splitlines()[0][:limit]
