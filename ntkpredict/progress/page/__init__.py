"""The indicator as a page in the browser; needs the extra ``serve``."""

from ntkpredict.progress.page.page import Page

__all__ = ["Page"]
