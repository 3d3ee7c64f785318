"""The constitution: principles in a YAML file, from which a model's values are built.

`load` reads and checks a file, `choose` and `phrase` say which principle and which of its wordings
an item meets, `compare` says what changed in meaning between two constitutions. Departs from Bai
et al. in that one principle carries all three wordings (critique, revise, prefer), and in that
choosing is a keyed hash, so that editing one principle leaves the items that never met it alone.

    rlaif constitution check constitution/general.yaml
"""

from rlaif.constitution.choosing import Law, choose, phrase, shown
from rlaif.constitution.comparing import Changes, compare
from rlaif.constitution.loading import load, loads
from rlaif.constitution.schema import (
    Constitution,
    CritiqueExample,
    Examples,
    PreferExample,
    Principle,
    Wording,
    json_schema,
)
from rlaif.constitution.writing import to_yaml

__all__ = [
    "Changes",
    "Constitution",
    "CritiqueExample",
    "Examples",
    "Law",
    "PreferExample",
    "Principle",
    "Wording",
    "choose",
    "compare",
    "json_schema",
    "load",
    "loads",
    "phrase",
    "shown",
    "to_yaml",
]
