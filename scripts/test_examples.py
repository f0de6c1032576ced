"""A check that lets everything pass would go unnoticed: what it must refuse, and what it must let pass.

    python3 -m unittest discover -s scripts
"""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import example_pages
from example_compare import difference

PAGE = """# Page
<!-- server: --threads 1 -->
<!-- run: cp a b
cp c d -->
```sh
echo 1
```

```text
1
```

<!-- not run: takes hours -->
```sh
sleep 9999
```
```json
{"left": "out"}
```

```console
$ echo one \\
    two
one two
$ true
```

```json
{"nobody": "printed this"}
```

```bash
echo 2
```
"""


class Comparison(unittest.TestCase):
    def good(self, expected, printed, language="text"):
        self.assertIsNone(difference(expected, language, printed))

    def bad(self, expected, printed, language="text"):
        self.assertIsNotNone(difference(expected, language, printed))

    def test_numbers_are_about_the_same(self):
        self.good("similarity 0.880", "similarity 0.871")
        self.good("took 100 ms", "took 104 ms")
        self.good('{"x": 162.08, "y": -0.001}', '{"x": 161.2, "y": 0.004}', "json")
        self.bad("similarity 0.88", "similarity 0.41")
        self.bad('{"faces": 1}', '{"faces": 2}', "json")

    def test_a_status_is_no_measurement(self):
        self.bad("201 Bob", "200 Bob")
        self.bad("HTTP/1.1 404 Not Found", "HTTP/1.1 409 Not Found")
        self.bad('{"status": 415}', '{"status": 409}', "json")
        self.bad('{\n...\n"status": 415,\n...\n}', '{"a": 1, "status": 409, "b": 2}', "json")

    def test_ids_and_times_look_right(self):
        self.good("01a225d5-b563-774d-a0e7-f04221b630d7 at 2026-11-29T06:00:00Z", "01a225e8-cc5d-7692-babe-c975d8f37173 at 2027-01-01T00:00:01.5Z")
        self.good('{"id": "01a225d5-b563-774d-a0e7-f04221b630d7"}', '{"id": "01a225e8-cc5d-7692-babe-c975d8f37173"}', "json")
        self.bad('{"id": "01a225d5-b563-774d-a0e7-f04221b630d7"}', '{"id": null}', "json")

    def test_what_is_left_out(self):
        self.good("a\n...\nz", "a\nb\nc\nz")
        self.good("a\n...\nz", "a\nz")
        self.good("took ... s", "took 3.2 s")
        self.good('{\n  "a": 1,\n  ...\n}', '{"a": 1, "b": [1, 2]}', "json")
        self.good('{"a": "...", "...": "..."}', '{"a": 7, "b": 8}', "json")
        self.bad("a\n...\nz", "a\nb\nc")
        self.bad('{\n  "a": 1,\n  ...\n}', '{"a": 5, "b": 2}', "json")

    def test_nothing_is_missing_and_nothing_is_new(self):
        self.bad("a", "a\nb")
        self.bad("a\nb", "a")
        self.bad('{"a": 1}', '{"a": 1, "b": 2}', "json")
        self.bad('{"a": true}', '{"a": 1}', "json")
        self.bad("[1, 2]", "[1]", "json")
        self.bad("Ada", "")


class Pages(unittest.TestCase):
    def test_which_blocks_run(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(example_pages, "CHECKOUT", Path(folder)):
            Path(folder, "page.md").write_text(PAGE)
            page = example_pages.read_page("page.md")
        steps = [(step.code, step.line, step.shown, step.output and step.output.text) for step in page.steps]
        self.assertEqual(page.server, ["--threads", "1"])
        self.assertEqual(steps, [
            ("cp a b\ncp c d", 3, False, None),
            ("echo 1", 6, True, "1"),
            ("echo one \\\n    two", 22, True, "one two"),
            ("true", 25, True, None),
        ])
        self.assertEqual(page.left_out, [(15, "takes hours")])
        self.assertEqual([line for line, _ in page.problems], [28, 32])


if __name__ == "__main__":
    unittest.main()
