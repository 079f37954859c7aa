"""Compares what is installed in an environment with published advisories: ``python .ci/audit.py .venv``.

pip-audit runs in an environment of its own, so that it is not part of what it audits. It ends well when it could look
nothing up; this does not: 0 means that every package was looked up and none has a known vulnerability, 1 that one has,
2 that it is not known.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOL = "pip-audit>=2.9,<3"
FOLDER = Path(".cache/audit")
ADVICE = "make audit needs pypi.org: run it where that can be reached, or set HTTPS_PROXY."
OURS = "duet-serve"


def main() -> int:
    """Audit the environment that is named; say what was found."""
    environment = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    packages = [str(path) for path in sorted(environment.glob("lib/python*/site-packages"))]
    if not packages:
        print(f"Expected an environment at {environment}, got none. Run make setup.", file=sys.stderr)
        return 2
    tool = FOLDER / "bin" / "pip-audit"
    if not tool.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=False)
        pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOL]
        if made.returncode or subprocess.run(pip, check=False).returncode:
            print(f"Expected to install pip-audit, got the error above. {ADVICE}", file=sys.stderr)
            return 2
    paths = [part for path in packages for part in ("--path", path)]
    command = [str(tool), *paths, "--format", "json", "--progress-spinner", "off"]
    audit = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(audit.stdout)
    except ValueError:
        reason = (audit.stderr.strip().splitlines() or ["nothing"])[-1]
        print(f"Expected a report of pip-audit, got: {reason} {ADVICE}", file=sys.stderr)
        return 2
    code, lines = verdict(report)
    print("\n".join(lines))
    return code


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Read a report of pip-audit: the exit code, and what to say."""
    packages = [package for package in report["dependencies"] if package["name"] != OURS]
    known = [package for package in packages if "vulns" in package]
    unknown = [package for package in packages if "vulns" not in package]
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version'}"
        for package in known
        for vulnerability in package["vulns"]
    ]
    told = [f"not looked up: {package['name']} ({package['skip_reason']})" for package in unknown]
    code = 1 if lines else 2 if unknown or not packages else 0
    summary = f"{len(known)} of {len(packages)} packages looked up, {len(lines)} known vulnerabilities."
    return code, [*lines, *told, summary, *([ADVICE] if code == 2 else [])]


if __name__ == "__main__":
    sys.exit(main())
