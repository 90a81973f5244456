"""Names of layers beneath a panel: all where they fit, aslant where they are long."""

from __future__ import annotations

from landscape.figures.canvas import sheet
from landscape.figures.layers import name_layers


def named(names):
    axis = sheet(1, 1, height=2)[1][0, 0]
    name_layers(axis, names)
    return axis, axis.get_xticklabels()


def test_short_names_stand_upright():
    axis, texts = named(["0", "2", "head"])
    assert [text.get_text() for text in texts] == ["0", "2", "head"]
    assert {text.get_rotation() for text in texts} == {0}
    assert axis.get_xlim() == (-0.5, 2.5)


def test_long_names_are_aslant_and_keep_their_ends():
    _, texts = named(["encoder.layers.10.attention.out", "encoder.layers.11.attention.out"])
    assert [text.get_text()[-16:] for text in texts] == ["10.attention.out", "11.attention.out"]
    assert {len(text.get_text()) for text in texts} == {22}
    assert {text.get_rotation() for text in texts} == {40}


def test_of_many_every_third_is_named_at_its_place():
    axis, texts = named([str(index) for index in range(40)])
    assert [text.get_text() for text in texts] == [str(index) for index in range(0, 40, 3)]
    assert axis.get_xticks().tolist() == list(range(0, 40, 3))
    assert axis.get_xlim() == (-0.5, 39.5)
    axis, texts = named([str(index) for index in range(16)])
    assert len(texts) == 16
