"""What `lint` finds, and the report that it gives."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field

from lorakit.capture.lines import Line

BREAKS, FROZEN, NOTE = "breaks", "frozen", "note"


@dataclass(frozen=True)
class Finding:
    """One thing that a capture refuses, freezes, or takes otherwise than you may think."""

    severity: str  # BREAKS: refused. FROZEN: taken, and a replay lies. NOTE: neither, or not known
    rule: str  # the book's number, "L3" for example; "" where it is no rule of capture
    line: Line | None  # of the caller's own code, None if none of it was running
    op: str  # what ran, and where its operands lie: "aten.copy_(device, pageable)"
    why: str
    fix: str  # the usual one, "" if there is none
    times: int = field(default=1, compare=False)  # how often this line did it

    def __str__(self) -> str:
        often = f", {self.times} times" if self.times > 1 else ""
        where = f" at {self.line}" if self.line else ""
        return "\n".join([f"{self.severity}{f' {self.rule}' if self.rule else ''}{where}{often}",
                          f"    {self.op}: {self.why}", *[f"    fix: {self.fix}"] * bool(self.fix)])


@dataclass(frozen=True)
class LintReport:
    """What `lint` found in one function. A person prints it, a test asserts on its fields."""

    name: str  # of the function
    findings: tuple[Finding, ...]  # in the order in which they came
    result: object  # what the function returned
    compared: bool  # whether a second batch was run: without one no frozen value can show

    @property
    def breaks(self) -> tuple[Finding, ...]:
        """What a capture refuses."""
        return self._of(BREAKS)

    @property
    def frozen(self) -> tuple[Finding, ...]:
        """What a capture takes, and a replay gives otherwise than the function does."""
        return self._of(FROZEN)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing, and what could not be seen."""
        return self._of(NOTE)

    def _of(self, severity: str) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def __str__(self) -> str:
        count = Counter(finding.severity for finding in self.findings)
        said = [f"{self.name}: {plural(count[BREAKS], 'break')}, {count[FROZEN]} frozen, "
                f"{plural(count[NOTE], 'note')}"
                + ("" if self.compared else " (one batch: no frozen value can show)")]
        for finding in (*self.breaks, *self.frozen, *self.notes):
            said += [f"  {line}" for line in str(finding).splitlines()]
        return "\n".join(said)

    def to_json(self) -> str:
        """Everything but the result, for other programs."""
        return json.dumps({"name": self.name, "compared": self.compared,
                           "findings": [asdict(finding) for finding in self.findings]}, indent=1)


def plural(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"
