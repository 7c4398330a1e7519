"""``/aliases``: which model answers to which name, since when, by whom and why; and the way back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, ConfigDict, Field

from app import aliases, registry
from app.aliases import Action, Alias
from app.api.answers import REVALIDATE
from app.api.bodies import takes_json
from app.api.schemas import Asked, Name, Page, Printable, View
from app.api.services import UseServices
from app.errors import Conflict, Fault, InvalidInput

router = APIRouter(tags=["aliases"])

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{16}")
_TAG = re.compile(r'(?:W/)?"(\d{1,9})"')  # weak where the answer went out compressed


def _fit(alias: str) -> str:
    if not _NAME.fullmatch(alias):
        raise ValueError("at most 64 letters, digits, dots, dashes and underscores, a letter first")
    if _ID.fullmatch(alias):
        raise ValueError("a name that nobody takes for a model's id")
    return alias


NewAlias = Annotated[
    str,
    Path(
        description="at most 64 letters, digits, dots, dashes and underscores, a letter first; unlike a model's id",
        json_schema_extra={"pattern": f"^{_NAME.pattern}$"},
    ),
    AfterValidator(_fit),
]


class Change(Asked):
    """Who changes something, and why."""

    reason: Printable | None = Field(None, max_length=1000)
    by: Printable | None = Field(None, max_length=100, description="who; null: the address that the request comes from")


class Pointed(Change):
    """The model that an alias is to stand for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "champion", "reason": "tastes better", "by": "Ana"}]})

    model: Name = Field(description="its id, or an alias that stands for it now")


class AliasView(View):
    """What an alias stands for, and the last change that made it so."""

    alias: str
    model: str = Field(validation_alias="model_id")
    version: int = Field(description="counts the changes of this alias; it is the `ETag`, which `If-Match` takes")
    reason: str
    changed_by: str
    changed_at: datetime


class ChangeView(View):
    """A change in the history of an alias."""

    version: int
    action: Action
    model: str | None = Field(validation_alias="model_id", description="what it stood for from then on; null: the alias was deleted")
    model_exists: bool = Field(description="false: that model was deleted since")
    below: int | None = Field(description="the version that a rollback of this one leads back to, if its model is still there; null: none")
    reason: str
    changed_by: str
    changed_at: datetime


class AliasHistory(AliasView):
    """An alias and its changes, newest first."""

    history: list[ChangeView]


def author(named: str | None, request: Request) -> str:
    """Who asks for a change, as the history calls them."""
    return named or f"a caller at {request.client.host if request.client else 'an unknown address'}"


@dataclass(frozen=True)
class Caller:
    """Who asks for a change, and the version that they saw, 0 where they saw none; None where they don't say."""

    request: Request
    version: int | None

    def name(self, given: str | None) -> str:
        """As the history calls them."""
        return author(given, self.request)


async def caller(request: Request) -> Caller:
    """Whoever sends this request; ``InvalidInput`` for an ``If-Match`` that is no alias's tag."""
    given = request.headers.get("if-match")
    if given is None:
        return Caller(request, 0 if request.headers.get("if-none-match", "").strip() == "*" else None)
    if (tag := _TAG.fullmatch(given.strip())) is None:
        detail = f'If-Match: expected the ETag of an alias, such as "3", found {given[:60]}'
        raise InvalidInput(detail, [Fault("/header/if-match", detail, expected="the ETag of an alias", found=given[:60])])
    return Caller(request, int(tag[1]))


UseCaller = Annotated[Caller, Depends(caller)]


async def takes_json_or_nothing(request: Request) -> None:
    """``UnsupportedMediaType`` for a body that does not say that it is JSON."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        await takes_json(request)


@router.get("/aliases")
def list_aliases(page: Annotated[Page, Query()], use: UseServices) -> list[AliasView]:
    """Every alias and the model that it stands for, in the order of the alphabet."""
    with use.db.read() as tx:
        return [AliasView.model_validate(alias) for alias in aliases.page(tx, limit=page.limit, offset=page.offset)]


@router.get("/aliases/{alias}")
def show_alias(alias: Name, page: Annotated[Page, Query()], use: UseServices, response: Response) -> AliasHistory:
    """An alias and its changes, newest first; the `ETag` is its version."""
    with use.db.read() as tx:
        found = aliases.get(tx, alias)
        changes = aliases.history(tx, alias, limit=page.limit, offset=page.offset)
    _tag(found, response)
    return AliasHistory.model_validate({**vars(found), "history": changes})


@router.put("/aliases/{alias}", dependencies=[Depends(takes_json)])
def point(alias: NewAlias, asked: Pointed, who: UseCaller, use: UseServices, response: Response) -> AliasView:
    """Makes an alias, new or not, stand for a model; where it does so already, nothing changes.

    The model is opened first: one that is damaged gets no alias (503). A `champion` must pour, an `autoencoder` must vary
    wines (409). With `If-Match` the change is refused (412) if somebody else was faster, with `If-None-Match: *` if there is
    such an alias already. Servers follow within two seconds.
    """
    with use.db.write() as tx:
        reason = asked.reason or "no reason given"
        changed = registry.point(tx, alias, asked.model, reason=reason, by=who.name(asked.by), expected=who.version)
    _tag(changed, response)
    return AliasView.model_validate(changed)


@router.post("/aliases/{alias}/rollback", dependencies=[Depends(takes_json_or_nothing)])
def rollback(alias: Name, who: UseCaller, use: UseServices, response: Response, asked: Change | None = None) -> AliasView:
    """Takes the last change of an alias back. Twice goes two models back, as undo does; to go forward again, `PUT` it.

    Models that were deleted or can't be opened are passed over, which the `reason` then says; 409 if none is left.
    """
    given = asked or Change()
    with use.db.write() as tx:
        changed = registry.rollback(tx, alias, reason=given.reason, by=who.name(given.by), expected=who.version)
    _tag(changed, response)
    return AliasView.model_validate(changed)


@router.delete("/aliases/{alias}", status_code=204)
def remove(alias: Name, asked: Annotated[Change, Query()], who: UseCaller, use: UseServices) -> None:
    """Deletes an alias, but for `champion`, which every call without a `model` means. The model stays, and so does the history of the name."""
    if alias == registry.CHAMPION:
        raise Conflict(f"{alias} is what every call without a model means, so it stays: point it elsewhere, or roll it back")
    with use.db.write() as tx:
        aliases.hold(tx)
        aliases.expect(tx, alias, who.version)
        aliases.get(tx, alias)
        aliases.remove(tx, alias, reason=asked.reason or "no reason given", by=who.name(asked.by))


def _tag(alias: Alias, response: Response) -> None:
    response.headers.update({"ETag": f'"{alias.version}"', "Cache-Control": REVALIDATE})
