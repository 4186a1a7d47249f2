"""docs/configuration.md is what the schema says."""

from pathlib import Path

from mixdist.config.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m mixdist.config.reference > docs/configuration.md"
    )
