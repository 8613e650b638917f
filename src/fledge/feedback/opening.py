"""Opening the store where its extra may be missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from fledge.core.errors import FledgeError

if TYPE_CHECKING:
    from fledge.feedback.store import Store


def open_store(where: str, *, made: bool = True) -> "Store":
    """The store in a file or at a URL. Raises FledgeError if SQLAlchemy is missing, or, unless it may be `made`, for a
    file that is not there."""
    try:
        from fledge.feedback.store import Store
    except ImportError as error:
        raise FledgeError(f"the feedback store needs {error.name}", "pip install 'fledge[feedback]'") from None
    file = where.removeprefix("sqlite:///")
    if not made and "://" not in file and not Path(file).expanduser().is_file():
        raise FledgeError(f"there is no feedback store {file}", "give the store of `fledge serve`: a file or a URL")
    return Store.open(where)
