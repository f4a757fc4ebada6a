"""What the architecture rules let pass, each with its reason."""

BLOCKING = {
    "exclave.daemon.parts": "holds the parts of a boot and reads their published values; their modules are async",
    "exclave.admin.arguments": "the shape of a command line; argparse prints help and exits; reads a PEM file",
    "exclave.admin.check.snapshot": "what the admin's commands read, by runs of kubectl",
    "exclave.admin.check.verbs": "an admin's command: a few runs of kubectl and what is printed",
    "exclave.admin.diagnostics.verbs": "an admin's commands: each is a few runs of kubectl and what is printed",
    "exclave.admin.install.verbs": "an admin's commands: reads the issuer's files, runs kubectl, prints",
    "exclave.admin.rotation.verbs": "an admin's command: a few runs of kubectl and what is printed",
    "exclave.admin.session": "prints, tells the time and waits for an admin, outside of trio",
    "exclave.admin.group.verbs": "an admin's commands: each is a few runs of kubectl and what is printed",
    "exclave.admin.kubectl": "runs the admin's kubectl to its end: commands do one thing at a time",
    "exclave.admin.main": "the entry of the admin's commands: prints and exits",
    "exclave.admin.member.renew": "an admin's command: a few runs of kubectl and what is printed",
    "exclave.admin.member.verbs": "an admin's commands: each is a few runs of kubectl and what is printed",
    "exclave.admin.token.verbs": "an admin's commands: each is a few runs of kubectl, a draw and what is printed",
    "exclave.admin.install.uninstall": "an admin's command: runs of kubectl and what is printed, and one pause",
    "exclave.cli.main": "the commands' entry: prints, exits, and starts trio where a command needs it",
    "exclave.control.client": "a few words with the agent over a unix socket; importing trio would double their time",
    "exclave.identity.storage": "small files written whole, and the making of a key",
    "exclave.kit.host.files": "files with fsync, where a thread would let a crash fall between two steps; locks",
    "exclave.kit.host.exit_code": "the end of a command, outside of trio: prints its failure",
    "exclave.kit.host.output": "prints for a person or a script, outside of trio",
    "exclave.kit.host.packages": "finds Python packages before any of them is imported",
    "exclave.kit.systemd.journal": "one datagram to a local socket, which never waits",
    "exclave.kit.systemd.sd_notify": "one datagram to a local socket, which never waits",
    "exclave.kit.tasks.signals": "the signals that this thread lets in, which the kernel changes at once",
    "exclave.kit.host.procfs": "small files in /proc and addresses of interfaces, which the kernel answers at once",
    "exclave.member.record": "small files written whole, read at boot",
    "exclave.proxy.process.records": "small files written whole, and looks into /proc",
    "exclave_sandbox.pki": "makes the demo's and the tests' certificates",
    "exclave_sandbox.stage.flush": "a program of its own, which reads from the kernel until it has an answer",
    "exclave.cli.status_text": "prints for a person; the agent never imports it",
    "exclave.cli.progress": "prints for a person who waits for a download",
    "exclave.proxy_install.store": "a few small files and links, changed by a command outside of the agent",
    "exclave.cli.wait": "a command from outside of trio: a few words with the agent, and pauses",
    "exclave.cli.process_settings": "PATH and limits of this process, before trio runs",
    "exclave.cli.token_source": "reads the join token from where it was given, before trio runs",
}
"""Modules without `async def` that touch the world all the same."""

OUTPUT = {
    "exclave.kit.host.output": "the door for what commands print",
    "exclave.kit.systemd.journal": "the door for logs: its formatter makes each message one visible line",
}
"""Modules that write to standard output or standard error."""

COMPOSES_TEXT = {
    "exclave.kit.formats.visible_text": "makes text visible",
    "exclave.admin.tables": "lays out cells that are visible, and prints JSON and YAML, which escape by themselves",
    "exclave.admin.token.verbs": "prints JSON, which escapes by itself",
    "exclave.admin.main": "prints a script for a shell, which this program makes of its own words",
    "exclave.cli.status_text": "adds colour and wraps text that is visible",
}
"""Modules that lay out text of several lines, or with escapes of their own, from visible texts."""

LAYERS = (
    "errors", "kit", "ending", "milestones", "api", "cluster", "config", "link", "dns", "redirect", "firewall",
    "member", "identity", "workload_api", "join", "proxy", "proxy_install", "data_path", "confirm", "swap", "listing",
    "control", "host_check", "daemon", "explain", "controller", "admin", "cli", "__main__", "exclave_sandbox",
)  # fmt: skip
"""The rooms from the lowest to the highest. A module imports from its own room and from lower ones only."""

VALUES = {
    "exclave.kit.formats.yaml_template": "reads YAML files of this package, which never change",
    "exclave.config": "its dataclasses are values; only load_config, which the commands call, reads a file",
}
"""Modules that touch the world and hold value types of all folders: pure modules may import them."""

ROOTS = {
    "exclave.daemon.boot",
    "exclave.daemon.address_move",
    "exclave.daemon.wanted_rules",
    "exclave.explain.explain",
    "exclave.firewall.observer",
    "exclave_sandbox.stage.stage",
    "exclave.cli.main",
    "exclave.cli.commands",
    "exclave.cli.proxy_commands",
    "exclave.cli.proxy_answers",
    "exclave.cli.wait",
    "exclave.daemon.leave_preview",
    "exclave.daemon.teardown",
    "exclave.daemon.process",
    "exclave.join.join",
    "exclave.host_check.check",
    "exclave.controller.run",
    "exclave.controller.replica",
    "exclave_sandbox.demo.main",
    "exclave_sandbox.linkerd.destination",
}
"""Composition roots: they alone open doors, and may import any folder."""

PURE_LIBRARIES = {
    "__future__", "base64", "binascii", "bisect", "collections", "contextlib", "copy", "cryptography", "dataclasses",
    "datetime", "difflib", "dns", "email", "enum", "functools", "h11", "h2", "hashlib", "heapq", "hmac", "hpack",
    "http", "hyperframe", "ipaddress", "itertools", "json", "jwcrypto", "logging", "math", "operator", "pathlib", "re",
    "shlex", "ssl", "string", "struct", "sys", "textwrap", "traceback", "types", "typing", "urllib", "yaml", "zlib",
}  # fmt: skip
"""Libraries that a pure module may import: they compute, as far as it uses them."""

WITHOUT_TEST_FILE = {
    "exclave.__main__": "one line that calls cli.main, which the command's tests run",
    "exclave_sandbox.demo.membership": "played whole by test_scenario",
    "exclave_sandbox.demo.traffic": "played whole by test_scenario",
    "exclave_sandbox.stage.flush": "run by the demo, under traffic",
    "exclave_sandbox.stage.stage": "stands in test_scenario, and in every benchmark",
}
"""Modules without a test file of their own name."""

UNSUPERVISED = {
    "exclave.cluster.client: run": "inside of a watch: its failure is for whoever reads that, and is supervised",
    "exclave.cluster.http: _discard": "closes connections, within a time; what goes wrong there harms nobody",
    "exclave.cluster.http: _run_to_end": "hands every failure to the caller of the request",
    "exclave.cluster.server_addresses: resolve_one": "inside of a join, which a person waits for",
    "exclave.daemon.teardown: _end_proxy": "inside of a teardown, which reports what it could not end",
    "exclave.confirm.confirm: confirmed": "a wait inside of a part that is supervised",
    "exclave.daemon.process: _cancel_when_ending": "a wait",
    "exclave.daemon.process: _report_phases": "inside of one client's answer",
    "exclave.daemon.process: _report_renewing": "inside of one client's answer",
    "exclave.listing.probes: run": "inside of the probes, which are supervised",
    "exclave.listing.serving: run_probes": "inside of the probes, which are supervised",
    "exclave.proxy.running: _end_within_limit": "inside of the proxy's keeper",
    "exclave.proxy.running: _end_when_dismissed": "inside of the proxy's keeper",
    "exclave.proxy.running: _watch": "inside of the proxy's keeper",
    "exclave.proxy.running: bound_output": "inside of the proxy's keeper",
    "exclave.proxy.instance: _supervise": "the proxy may end the agent, which hands over",
    "exclave.proxy.instance: _end_one": "inside of the proxy's end",
    "exclave.proxy.instance: watch_differences": "the proxy may end the agent, which hands over",
    "exclave.proxy.instance: run": "the proxy may end the agent, which hands over",
    "exclave.redirect.reconciler: run": "the redirect may end the agent, which hands over",
    "exclave.swap.evidence: _answer": "inside of a trial: its failure is the trial's",
    "exclave.workload_api.server: follow": "inside of one connection, which is dropped if it fails",
    "exclave.workload_api.server: read": "inside of one connection, which is dropped if it fails",
}
"""What an agent starts without kit.supervise: a failure of it goes to the part around it, or ends the agent."""
