"""Credits in the running catalog: from the file and over the API, across reloads and restarts."""

from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
import trio

from harness import NOW
from support import open_test_core, rows
from tallyd.clock import FixedClock
from tallyd.core import Core
from tallyd.model.catalog import CreditModel, CreditPrice, CreditWeight
from tallyd.model.moments import DAY_US
from tallyd.model.problems import ProblemError
from tallyd.store.catalog_rows import StoredCreditModel

FEATURES: Final = '[[features]]\nkey = "chat"\n'
MODEL: Final = '[[credit_models]]\nkey = "tokens"\nlow_at = 5\n'


def weight(value: str, model: str = "") -> str:
    """A weight in the file."""
    return f'[[credit_weights]]\nfeature = "chat"\nweight = "{value}"\n' + (
        f'model = "{model}"\n' if model else ""
    )


def price(value: str) -> str:
    """A price in the file."""
    return f'[[credit_prices]]\ncredit_model = "tokens"\nprice = "{value}"\n'


async def reload(core: Core, text: str) -> list[str]:
    """Put another file in force."""
    assert core.config.catalog is not None
    await trio.Path(core.config.catalog).write_text(FEATURES + text, encoding="utf-8")
    return await core.reload_catalog()


def move(core: Core, micros: int = 1) -> int:
    """Let time pass."""
    assert isinstance(core.clock.system, FixedClock)
    core.clock.system.move(micros)
    return core.clock.now()


async def test_a_reload_without_a_change_writes_nothing(tmp_path: Path) -> None:
    """Models, weights and prices of an unchanged file stay as they are, also over a restart."""
    text = FEATURES + MODEL + weight("2") + weight("8.50", "gpt-4o") + price("0.020")
    async with open_test_core(tmp_path, text) as core:
        move(core)
        assert await core.reload_catalog() == []
    async with open_test_core(tmp_path, text) as core:
        assert await rows(core, "SELECT count(*) FROM credit_weights") == [(2,)]
        assert await rows(core, "SELECT count(*) FROM credit_prices") == [(1,)]
        assert await rows(core, "SELECT created_at, updated_at FROM credit_models") == [(NOW, NOW)]
        assert core.catalogue.terms.weights.rows == core.catalogue.weights.rows
        assert core.catalogue.terms.credit_models["tokens"].low_at == 5


async def test_an_edited_weight_holds_from_the_reload_on(tmp_path: Path) -> None:
    """A new value in the file is a new row; what was in force before stays so, and so does what is gone."""
    async with open_test_core(
        tmp_path, FEATURES + MODEL + weight("2") + weight("8", "gpt-4o") + price("1")
    ) as core:
        later = move(core)
        changed = await reload(core, MODEL + weight("3") + price("2"))
        assert changed == ["credit weight chat 3", "credit price tokens 2 USD"]
        held = core.catalogue.weights.timeline("chat", "", "")
        assert [(row.weight, row.effective_from) for row in held.rows] == [(2, 0), (3, later)]
        assert len(core.catalogue.weights.in_force(later)) == 2
        paid = core.catalogue.prices_of_credits.current("tokens", later)
        assert paid is not None
        assert paid.price == 2


async def test_two_reloads_within_an_instant_keep_their_order(tmp_path: Path) -> None:
    """A weight that is edited twice in a microsecond begins a microsecond later, once."""
    async with open_test_core(tmp_path, FEATURES + weight("2")) as core:
        await reload(core, weight("3"))
        await reload(core, weight("3"))
        held = core.catalogue.weights.timeline("chat", "", "")
        assert [(row.weight, row.effective_from) for row in held.rows] == [(2, 0), (3, NOW)]


async def test_a_model_that_is_gone_from_the_file_stays_for_its_pools(tmp_path: Path) -> None:
    """It is not listed any more, but plans that name it still find its rules."""
    async with open_test_core(tmp_path, FEATURES + MODEL) as core:
        assert [model.key for model in core.catalogue.credits.listed()] == ["tokens"]
        await reload(core, "")
        assert core.catalogue.credits.listed() == []
        assert "tokens" in core.catalogue.terms.credit_models
        await reload(core, MODEL)
        assert [model.key for model in core.catalogue.credits.listed()] == ["tokens"]


async def test_an_edited_model_keeps_its_id(tmp_path: Path) -> None:
    """The rules change, the identity does not; new pools get the new rules."""
    async with open_test_core(tmp_path, FEATURES + MODEL) as core:
        before = core.catalogue.credits.stored["tokens"]
        later = move(core)
        assert await reload(core, MODEL.replace("5", "6")) == ["credit model tokens"]
        after = core.catalogue.credits.stored["tokens"]
        assert (after.id, after.created_at, after.updated_at) == (before.id, NOW, later)
        assert core.catalogue.terms.credit_models["tokens"].low_at == 6


async def test_a_model_made_over_an_api_is_kept_and_may_move_into_the_file(tmp_path: Path) -> None:
    """What an API made is there after a restart; once the file has its key, the file's rules count."""
    made = StoredCreditModel(
        key="tokens",
        id="cde_1",
        source="dodo",
        definition=CreditModel(key="tokens", low_at=Decimal("0.5")),
        extra={"description": "as sent", "price": "0.10"},
        created_at=NOW,
        updated_at=NOW,
    )
    async with open_test_core(tmp_path, FEATURES) as core:
        await core.catalogue.credits.write_credit_model(made, core.writer)
    async with open_test_core(tmp_path, FEATURES) as core:
        assert core.catalogue.credits.listed() == [made]
        assert core.catalogue.credits.find("cde_1") == made
        await reload(core, MODEL)
        moved = core.catalogue.credits.stored["tokens"]
        assert (moved.id, moved.source, moved.definition.low_at) == ("cde_1", "catalog", 5)


async def test_racing_publishes_agree_on_who_was_first(tmp_path: Path) -> None:
    """Of two batches for one instant, one is taken and one is refused; the books have one row."""
    outcomes: list[str] = []

    async def publish(core: Core, value: str) -> None:
        batch = [CreditWeight(feature="chat", weight=Decimal(value))]
        try:
            await core.catalogue.credits.publish_weights(batch, NOW + 1, core.writer)
            outcomes.append("taken")
        except ProblemError as error:
            outcomes.append(error.problem.code)

    async with open_test_core(tmp_path, FEATURES) as core:
        async with trio.open_nursery() as nursery:
            for value in ("2", "3"):
                nursery.start_soon(publish, core, value)
        assert sorted(outcomes) == ["conflict", "taken"]
        assert await rows(core, "SELECT count(*) FROM credit_weights") == [(1,)]


async def test_a_deleted_row_is_gone_after_a_restart(tmp_path: Path) -> None:
    """What lay ahead and was taken back is in no schedule any more."""
    async with open_test_core(tmp_path, FEATURES + MODEL) as core:
        credits_ = core.catalogue.credits
        weights = [CreditWeight(feature="chat", weight=Decimal(value), model=value) for value in ("2", "3")]
        kept, gone = (await credits_.publish_weights(weights, NOW + DAY_US, core.writer)).rows
        prices = [CreditPrice(credit_model="tokens", price=Decimal(1))]
        (dear,) = (await credits_.publish_prices(prices, NOW + 1, core.writer)).rows
        await credits_.delete_weight(gone.id, core.writer)
        await credits_.delete_price(dear.id, core.writer)
        with pytest.raises(ProblemError, match="there is no weight"):
            await credits_.delete_weight(gone.id, core.writer)
    async with open_test_core(tmp_path, FEATURES + MODEL) as core:
        assert core.catalogue.weights.rows == [kept]
        assert core.catalogue.prices_of_credits.rows == []
