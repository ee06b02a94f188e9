"""What fewer bytes a vector cost stands in both reports, as it was measured."""

import json
import shutil

from tests.support.report_inputs import write


def test_every_form_stands_in_both_reports_with_what_it_costs(made):
    measured = json.loads((made / "results/finetuned/details.json").read_text())["small_vectors"]
    assert [form["dtype"] for form in measured["t2i"]] == ["float32", "float16", "int8", "binary", "signs"]
    whole, _, int8, *_ = measured["i2t"]
    text = (made / "results/report.md").read_text()
    section = text[text.index("## Vectors in fewer bytes, fine-tuned model") :].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["float32", "float16", "int8", "binary, then int8", "binary alone"]
    dims, share = whole["dims"], 100 * whole["hits"]["hit_at_5"]
    assert rows[2][1:5] == [str(dims), str(4 * dims), str(4 * dims), f"{0.4 * dims:.1f}"]
    assert rows[2][-1] == f"{share:.1f}"
    change = f"{100 * int8['hits']['hit_at_5'] - share:+.1f}".replace("-", "−")
    assert rows[4][-1] == f"{100 * int8['hits']['hit_at_5']:.1f} [{change}]"
    page = (made / "results/report.html").read_text()
    assert '<a href="#small-vectors">Fewer bytes</a>' in page
    table = page[page.index('<h2 id="small-vectors">') : page.index('<h2 id="scores">')]
    assert all(cell in table for row in rows[2:] for cell in row[5:])


def test_prefixes_have_rows_and_results_of_older_code_have_no_section(world, tmp_path):
    root = shutil.copytree(world, tmp_path / "world")
    path = root / "results/finetuned/details.json"
    body = json.loads(path.read_text())
    for forms in body["small_vectors"].values():
        forms.append(forms[0] | {"dims": 2, "searched": 8, "kept": 8})
    path.write_text(json.dumps(body))
    write(root)
    assert "| float32 | 2 | 8 | 8 | 0.8 |" in (root / "results/report.md").read_text()
    path.write_text(json.dumps({name: part for name, part in body.items() if name != "small_vectors"}))
    write(root)
    assert "fewer bytes" not in (root / "results/report.md").read_text()
    assert "small-vectors" not in (root / "results/report.html").read_text()
