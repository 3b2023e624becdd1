"""Options of studies. They are texts, numbers and bools, so lists are written as text: `5,11`."""

from __future__ import annotations

from visit_tl.errors import InputError
from visit_tl.model.view import ModelView


def chosen_layers(
    view: ModelView, asked: str | int | None, default: tuple[int, ...]
) -> tuple[int, ...]:
    """The blocks that an option names, ascending.

    Args:
        view: The model.
        asked: A block, blocks as text such as `5,11`, `all`, or None.
        default: The blocks that None stands for.

    Raises:
        InputError: it is no list of blocks of this model.
    """
    if asked is None:
        return default
    if asked == "all":
        return tuple(range(view.n_layers))
    return view.check_layers(chosen_integers("layers", asked), gaps=True)


def chosen_integers(name: str, asked: str | int) -> list[int]:
    """The numbers of an option such as `5` or `5,11`.

    Raises:
        InputError: it is something else.
    """
    try:
        if isinstance(asked, bool):
            raise ValueError
        return [int(one) for one in str(asked).split(",")]
    except ValueError:
        raise InputError(f"{name} is a number or several, such as '5,11'; got {asked!r}") from None


def quarter_points(n_layers: int) -> tuple[int, ...]:
    """The last blocks of the four quarters: 5, 11, 17 and 23 of 24."""
    return tuple(sorted({max(0, n_layers * i // 4 - 1) for i in (1, 2, 3, 4)}))


def count(name: str, asked: int, most: int) -> int:
    """A number of things, cut to how many there are.

    Raises:
        InputError: it is below 1 or no integer.
    """
    if type(asked) is not int or asked < 1:
        raise InputError(f"{name} is an integer of at least 1, got {asked!r}")
    return min(asked, most)
