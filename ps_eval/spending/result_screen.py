"""What `ps-eval run` and `replay` print at their end: the tables, or the summary as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from ps_eval.reporting.frontier import print_equal_use
from ps_eval.reporting.summary import Summary, print_table


def show_result(
    summary: Summary,
    output: str,
    remarks: Sequence[str],
    as_json: bool,
    *lines: str,
    use_known: bool = True,
) -> None:
    """Print a summary.

    Args:
        summary: As it was written.
        output: The folder it is in.
        remarks: What is not as it should be but was allowed: part of the title.
        as_json: Print the summary as JSON instead, remarks on stderr.
        lines: Sentences below the tables.
        use_known: Whether the rows' tokens are those really used, not those granted.
    """
    console = Console(stderr=as_json)
    for remark in remarks:
        console.print(f"NOTE: {remark}.", style="bold", highlight=False)
    if as_json:
        sys.stdout.write(json.dumps(asdict(summary)) + "\n")
        return
    if use_known:
        print_table(summary.rows, console)
    else:
        print_table(summary.rows, console, "tokens granted, since the table does not know use,")
    if summary.equal_use:
        print_equal_use(summary.equal_use, console)
    for line in lines:
        console.print(line, highlight=False)
    console.print(f"Written: {output}", highlight=False)
    console.print(f"Next: ps-eval report {output} --output {output}/report", highlight=False, soft_wrap=True)
