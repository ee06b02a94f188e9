import xml.etree.ElementTree

import numpy as np

from tuwen.report.html.confusion import draw_confusion


def test_each_count_stands_in_its_cell_and_names_are_text() -> None:
    names = ["<script>", "食物 & 饮料"]
    root = xml.etree.ElementTree.fromstring(draw_confusion(names, [[3, 1], [0, 4]]))
    space = "{http://www.w3.org/2000/svg}"
    cells = [rect for rect in root.iter(f"{space}rect") if rect.find(f"{space}title") is not None]
    said = [(cell.findtext(f"{space}title"), float(cell.get("fill-opacity", 0))) for cell in cells]
    assert said == [
        ("<script> → <script>: 3", 0.45),
        ("<script> → 食物 & 饮料: 1", 0.15),
        ("食物 & 饮料 → 食物 & 饮料: 4", 0.6),
    ]
    x, y = ([float(cell.get(side, 0)) for cell in cells] for side in "xy")
    assert x[0] < x[1] == x[2]
    assert y[0] == y[1] < y[2]
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts.count("<script>") == texts.count("食物 & 饮料") == 2
    assert draw_confusion([], []) == ""


def test_a_thousand_classes_stay_a_small_picture() -> None:
    counts = np.eye(1000, dtype=int).tolist()
    drawing = draw_confusion([f"类别{n}" for n in range(1000)], counts)
    root = xml.etree.ElementTree.fromstring(drawing)
    assert float(root.get("width", 0)) < 4100
    assert len(drawing) < 400_000
