"""Does any installed package have a known vulnerability? Asks PyPI through pip-audit (extra `audit`).

    python -m tests.support.audit

Exits with 1 where one is known. Where PyPI's service can't be reached, or knows none of the packages (as a mirror of
the index), it says that nothing was checked, and exits with 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_COMMAND = (sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off")


def summarise(report: dict[str, Any]) -> tuple[list[str], int]:
    """What to say of pip-audit's report, and the exit status."""
    packages = report["dependencies"]
    unknown = sorted(package["name"] for package in packages if "skip_reason" in package)
    lines = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in packages
        for fault in package.get("vulns", ())
    ]
    checked = len(packages) - len(unknown)
    if not checked:
        return [f"audit skipped: the service knows none of {len(unknown)} packages, nothing was checked"], 0
    left_out = f"; {len(unknown)} could not be checked: {', '.join(unknown)}" if unknown else ""
    return [*lines, f"audit: {checked} packages, {len(lines)} known vulnerabilities{left_out}"], 1 if lines else 0


def main() -> int:
    """Run pip-audit and say what it found."""
    done = subprocess.run([*_COMMAND, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "ConnectionError" not in done.stderr and "ProxyError" not in done.stderr and "Timeout" not in done.stderr:
            print(f"audit: pip-audit failed: {reason}", file=sys.stderr)  # noqa: T201
            return 2
        print(f"audit skipped: the service can't be reached, nothing was checked ({reason[:200]})")  # noqa: T201
        return 0
    lines, status = summarise(report)
    print("\n".join(lines))  # noqa: T201
    return status


if __name__ == "__main__":
    sys.exit(main())
