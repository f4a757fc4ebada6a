"""The Helm chart and the kustomize base, as the real helm and kustomize read them, against what `install` applies.

Equal means: the same objects with the same content. The chart alone has one annotation more, by which Helm leaves the
definitions and the policies in the cluster when a release is uninstalled.
"""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from exclave.admin.objects import Installation, first_objects, later_objects
from exclave.api.names import CONTROLLER
from exclave.api.requests import DEPLOYMENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS, path_of
from support.admin import KUBECTL

from .chart_programs import BASE, CHART, Objects, kustomize_build, refusal, render, run_helm
from .installation import Cluster, cluster_of
from .kubernetes import AVAILABLE, Kubernetes

KEEP = "helm.sh/resource-policy"
KEPT_KINDS = {"CustomResourceDefinition", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
DEPLOYMENT = ("Deployment", "exclave", CONTROLLER)
NAMESPACE = "charted"

ALL_OPTIONAL = ("enablePodDisruptionBudget=true", "networkPolicy.enabled=true", "serviceMonitor.enabled=true")


def installed_by_command(choice: Installation) -> Objects:
    """What the command applies."""
    manifests = [*first_objects(), *later_objects(choice)]
    return {(one.resource.kind, one.namespace or "", one.name): one.body for one in manifests}


def without_keep(objects: Objects) -> Objects:
    """The objects without the chart's annotation."""
    found = copy.deepcopy(objects)
    for body in found.values():
        annotations = body["metadata"].get("annotations", {})
        if annotations.pop(KEEP, None) and not annotations:
            del body["metadata"]["annotations"]
    return found


def settings(*values: str) -> list[str]:
    """The options for `key=value`."""
    return [word for value in values for word in ("--set", value)]


def pod_of(objects: Objects) -> dict[str, Any]:
    """The pod's template in the Deployment."""
    template: dict[str, Any] = objects[DEPLOYMENT]["spec"]["template"]
    return template


# What equals what.


@pytest.mark.parametrize(
    ("choice", "values"),
    [
        (Installation(), []),
        (Installation(issuer="linkerd"), ["issuer.source=linkerd"]),
        (
            Installation(issuer="cert-manager", issued_by="ClusterIssuer/linkerd-trust-anchor"),
            ["issuer.source=cert-manager"],
        ),
        (
            Installation("vms", "mesh", issuer="cert-manager", issued_by="Issuer/anchor"),
            [
                "linkerdNamespace=mesh",
                "issuer.source=cert-manager",
                "issuer.certManager.kind=Issuer",
                "issuer.certManager.name=anchor",
            ],
        ),
        (Installation("vms", "mesh", issuer="linkerd"), ["linkerdNamespace=mesh", "issuer.source=linkerd"]),
        (
            Installation(image="registry.example/controller:1.2", replicas=3),
            ["image.name=registry.example/controller", "image.version=1.2", "replicas=3"],
        ),
    ],
    ids=["defaults", "Linkerd's issuer", "cert-manager", "other names", "other names, Linkerd's issuer", "own image"],
)
def test_helm_renders_what_the_command_applies(choice: Installation, values: list[str]) -> None:
    words = [word for value in values for word in ("--set-string" if "version" in value else "--set", value)]
    found = render("--set", "createNamespace=true", *words, namespace=choice.namespace)
    assert without_keep(found) == installed_by_command(choice)


def test_names_that_are_numbers_stay_strings() -> None:
    found = render("--set", "createNamespace=true", "--set-string", "linkerdNamespace=456", namespace="123")
    assert without_keep(found) == installed_by_command(Installation("123", "456"))


def test_the_base_of_kustomize_is_what_the_command_applies() -> None:
    assert kustomize_build(BASE / "base") == installed_by_command(Installation())


def test_the_base_of_kustomize_stays_in_the_order_of_the_command() -> None:
    wanted = list(installed_by_command(Installation()))
    assert list(kustomize_build(BASE / "base")) == wanted


def test_the_components_of_kustomize_are_the_options_of_the_chart(tmp_path: Path) -> None:
    names = sorted(path.name for path in (BASE / "components").iterdir())
    top = tmp_path / "kustomize"
    top.mkdir()
    for part in BASE.rglob("*.yaml"):
        target = top / part.relative_to(BASE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(part.read_bytes())
    overlay = {"resources": ["../base"], "components": [f"../components/{name}" for name in names]}
    (top / "overlay").mkdir()
    (top / "overlay/kustomization.yaml").write_text(yaml.safe_dump(overlay))
    chart = render(*settings("createNamespace=true", "issuer.source=cert-manager", *ALL_OPTIONAL))
    assert kustomize_build(top / "overlay") == without_keep(chart)
    assert len(names) == 4


def test_the_namespace_is_rendered_on_request_only() -> None:
    whole, default = render("--set", "createNamespace=true"), render()
    assert set(whole) - set(default) == {("Namespace", "", "exclave")}


def test_helm_leaves_definitions_and_policies_in_the_cluster() -> None:
    found = render()
    kept = {key for key, body in found.items() if KEEP in body["metadata"].get("annotations", {})}
    assert kept == {key for key in found if key[0] in KEPT_KINDS}


def test_the_chart_has_no_hooks_and_passes_helms_linter() -> None:
    done = run_helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr
    hooks = [key for key, body in render(*settings(*ALL_OPTIONAL)).items() if "helm.sh/hook" in json.dumps(body)]
    assert hooks == []


# Values.


def test_scheduling_values_reach_the_pod(tmp_path: Path) -> None:
    spread = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    wanted = {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [spread],
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "registry"}],
    }
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    labels, annotations = {"team": "mesh"}, {"note": "yes: quoted"}
    file = tmp_path / "values.yaml"
    others = {"resources": resources, "podLabels": labels, "podAnnotations": annotations}
    file.write_text(yaml.safe_dump({**wanted, **others, "image": {"pullPolicy": "Always"}}))
    default, found = pod_of(render()), pod_of(render("--values", file))
    expected = copy.deepcopy(default)
    expected["spec"].update(wanted)
    expected["spec"]["containers"][0].update(resources=resources, imagePullPolicy="Always")
    expected["metadata"]["labels"].update(labels)
    expected["metadata"]["annotations"].update(annotations)
    assert found == expected


def test_optional_objects_take_their_values(tmp_path: Path) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    server = {"ipBlock": {"cidr": "192.0.2.1/32"}}
    file = tmp_path / "values.yaml"
    policy = {"enabled": True, "apiServerPorts": [8443], "apiServer": [server], "metricsFrom": [peer]}
    monitor = {"enabled": True, "scrapeInterval": "30s", "labels": {"release": "prometheus"}}
    budget = {"enablePodDisruptionBudget": True, "podDisruptionBudget": {"maxUnavailable": "50%"}}
    file.write_text(yaml.safe_dump({"networkPolicy": policy, "serviceMonitor": monitor, **budget}))
    found = render("--values", file)
    network = found["NetworkPolicy", "exclave", CONTROLLER]["spec"]
    assert network["ingress"] == [{"ports": [{"port": "metrics"}], "from": [peer]}]
    assert network["egress"] == [{"ports": [{"port": 8443}], "to": [server]}]
    found_monitor = found["ServiceMonitor", "exclave", CONTROLLER]
    assert found_monitor["metadata"]["labels"] == {"release": "prometheus"}
    assert found_monitor["spec"]["endpoints"] == [{"port": "metrics", "interval": "30s", "scrapeTimeout": "10s"}]
    assert found["PodDisruptionBudget", "exclave", CONTROLLER]["spec"]["maxUnavailable"] == "50%"


def test_the_optional_objects_select_the_controller() -> None:
    found = render(*settings(*ALL_OPTIONAL))
    labels = pod_of(found)["metadata"]["labels"]
    selected = [
        found["PodDisruptionBudget", "exclave", CONTROLLER]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy", "exclave", CONTROLLER]["spec"]["podSelector"]["matchLabels"],
        found["Service", "exclave", CONTROLLER]["spec"]["selector"],
    ]
    assert all(one.items() <= labels.items() for one in selected)
    monitor = found["ServiceMonitor", "exclave", CONTROLLER]["spec"]["selector"]["matchLabels"]
    assert monitor.items() <= found["Service", "exclave", CONTROLLER]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--set", "replica=3"], "additional properties 'replica' not allowed"),
        (["--set", "image.tag=1"], "at '/image': additional properties 'tag' not allowed"),
        (["--set", "replicas=two"], "at '/replicas': got string, want integer"),
        (["--set", "resources.cpu.limit=1"], "at '/resources': additional properties 'cpu' not allowed"),
        (["--set", "issuer.source=key"], "at '/issuer/source': value must be one of"),
        (["--set", "issuer.keyPEM=x"], "at '/issuer': additional properties 'keyPEM' not allowed"),
        (["--set", "linkerdNamespace=Linkerd"], "at '/linkerdNamespace': 'Linkerd' does not match pattern"),
        (["--set", "linkerdNamespace=5"], "at '/linkerdNamespace': got number, want string"),
        (["--set", "serviceMonitor=true"], "at '/serviceMonitor': got boolean, want object"),
        (["--set", "podLabels.app\\.kubernetes\\.io/name=x"], "at '/podLabels/app.kubernetes.io~1name': false schema"),
        (
            ["--set", "podAnnotations.linkerd\\.io/inject=enabled"],
            "at '/podAnnotations/linkerd.io~1inject': false schema",
        ),
        (["--set-json", "tolerations={}"], "at '/tolerations': got object, want array"),
        (["--set-json", "networkPolicy.apiServerPorts=[]"], "at '/networkPolicy/apiServerPorts': minItems"),
        (["--kube-version", "1.29.0"], "chart requires kubeVersion: >=1.30.0-0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_helm_refuses_wrong_values(words: list[str], complaint: str) -> None:
    assert complaint in refusal(*words)


# On a real API server.


@pytest.fixture
def cluster(own_kubernetes: Kubernetes, tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(own_kubernetes, tmp_path) as found:
        yield found


def helm_in(cluster: Cluster, *words: object) -> "tuple[int, str]":
    done = run_helm(*words, "--namespace", NAMESPACE, kubeconfig=cluster.admin.kubeconfig)
    return done.returncode, done.stdout + done.stderr


def checked(cluster: Cluster) -> dict[str, tuple[str, str]]:
    """The rows of `check`: the result of each, and the fault."""
    found = json.loads(cluster.admin.type("check", "--controller-namespace", NAMESPACE, "-o", "json").out)
    return {one["description"]: (one["result"], one.get("error", "")) for one in found["categories"][0]["checks"]}


def remove(cluster: Cluster) -> None:
    typed = cluster.admin.type("uninstall", "--strand-members", "--controller-namespace", NAMESPACE)
    assert typed.code == 0, typed.err


def test_helm_takes_over_what_the_command_installed(cluster: Cluster) -> None:
    made = cluster.furnish()
    options = [*cluster.issuer_files(made.issuer), "--controller-namespace", NAMESPACE]
    assert cluster.admin.type("install", *options).code == 0
    try:
        code, text = helm_in(cluster, "install", "exclave", CHART)
        assert (code, "cannot be imported into the current release" in text) == (1, True), text
        code, text = helm_in(cluster, "install", "exclave", CHART, "--take-ownership", "--set", "replicas=3")
        assert code == 0, text
        assert cluster.client.get(path_of(DEPLOYMENTS, NAMESPACE, CONTROLLER)).json()["spec"]["replicas"] == 3
        rows = checked(cluster)
        right = "the controller's rights are as installed", "the admission policies are as installed"
        assert {title: rows[title] for title in right} == dict.fromkeys(right, ("success", "")), rows
        before = cluster.client.get(path_of(DEPLOYMENTS, NAMESPACE, CONTROLLER)).json()["metadata"]["resourceVersion"]
        typed = cluster.admin.type("upgrade", "--controller-namespace", NAMESPACE)
        assert (typed.code, typed.out) == (0, ""), typed.err
        assert "Helm manages all but the groups: run helm upgrade, too" in typed.err
        after = cluster.client.get(path_of(DEPLOYMENTS, NAMESPACE, CONTROLLER)).json()["metadata"]["resourceVersion"]
        assert after == before
        typed = cluster.admin.type("upgrade", "--controller-namespace", NAMESPACE, "--image", "other:1")
        assert (typed.code, typed.out) == (2, "")
        assert "Helm manages this installation, so --image would not last" in typed.err
        code, text = helm_in(cluster, "upgrade", "exclave", CHART, "--set", "replicas=1")
        assert code == 0, text
        assert cluster.client.get(path_of(DEPLOYMENTS, NAMESPACE, CONTROLLER)).json()["spec"]["replicas"] == 1
    finally:
        remove(cluster)


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_the_commands_in_the_notes_complete_an_installation(cluster: Cluster) -> None:
    made = cluster.furnish()
    cluster.issuer_files(made.issuer)
    remove(cluster)  # the definitions, which a new server here has
    try:
        code, text = helm_in(cluster, "install", "exclave", CHART, "--create-namespace")
        assert code == 0, text
        commands = [line.split() for line in text.partition("NOTES:")[2].splitlines() if line.startswith("  kubectl ")]
        for command in commands:
            if command[1] != "exclave":
                words = " ".join(command[1:]).replace("--cert FILE", "--cert issuer.crt").replace("FILE", "issuer.key")
                run_kubectl(cluster, *words.split())
        assert [command[1:3] for command in commands] == [
            ["create", "secret"], ["label", "namespace"], ["exclave", "check"], ["exclave", "group"],
        ]  # fmt: skip
        assert all(command[-2:] == ["--controller-namespace", NAMESPACE] for command in commands[2:])
        rows = checked(cluster)
        right = "the controller's rights are as installed", "the issuer chains to Linkerd's trust anchors"
        assert {title: rows[title] for title in right} == dict.fromkeys(right, ("success", "")), rows
    finally:
        remove(cluster)


def run_kubectl(cluster: Cluster, *words: str) -> None:
    command = [str(KUBECTL), "--kubeconfig", str(cluster.admin.kubeconfig), *words]
    done = subprocess.run(command, cwd=cluster.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_helm_takes_over_what_kustomize_applied(cluster: Cluster) -> None:
    cluster.furnish()
    try:
        run_kubectl(cluster, "apply", "--server-side", "-k", str(BASE / "base"))
        right = "the controller's rights are as installed", "the admission policies are as installed"
        rows = cluster.rows()
        assert {title: rows[title] for title in right} == dict.fromkeys(right, ("success", "")), rows
        words = ("upgrade", "--install", "exclave", CHART, "--take-ownership", "--namespace", "exclave")
        done = run_helm(*words, kubeconfig=cluster.admin.kubeconfig)
        assert done.returncode == 0, done.stderr
        rows = cluster.rows()
        assert {title: rows[title] for title in right} == dict.fromkeys(right, ("success", "")), rows
    finally:
        typed = cluster.admin.type("uninstall", "--strand-members")
    assert typed.code == 0, typed.err


def test_an_uninstalled_release_leaves_definitions_and_policies(cluster: Cluster) -> None:
    cluster.furnish()
    remove(cluster)  # the definitions, which a new server here has
    try:
        code, text = helm_in(cluster, "install", "exclave", CHART, "--create-namespace")
        assert code == 0, text
        code, text = helm_in(cluster, "uninstall", "exclave")
        assert code == 0, text
        assert cluster.client.get(path_of(DEPLOYMENTS, NAMESPACE, CONTROLLER)).status_code == 404
        kept = [one for one in later_objects(Installation(NAMESPACE)) if one.resource.kind in KEPT_KINDS]
        for one in (*first_objects(), *kept):
            assert cluster.client.get(path_of(*one.key)).status_code == 200, one
        code, text = helm_in(cluster, "install", "exclave", CHART)
        assert code == 0, text
    finally:
        remove(cluster)


@pytest.mark.parametrize("own_kubernetes", AVAILABLE, indirect=True)
def test_the_pod_is_admitted_where_restricted_is_enforced(cluster: Cluster) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    body = {"metadata": {"name": "charted-restricted", "labels": labels}}
    assert cluster.client.post(path_of(NAMESPACES, None), json=body).status_code == 201
    try:
        accounts, pods = (path_of(kind, "charted-restricted") for kind in (SERVICE_ACCOUNTS, PODS))
        assert cluster.client.post(accounts, json={"metadata": {"name": CONTROLLER}}).status_code == 201
        template = pod_of(render())
        pod = {"metadata": {"name": "one", **template["metadata"]}, "spec": template["spec"]}
        answer = cluster.client.post(pods, json=pod)
        assert answer.status_code == 201, answer.text
        del pod["spec"]["securityContext"]["seccompProfile"]
        answer = cluster.client.post(pods, json=pod | {"metadata": {"name": "two"}})
        assert answer.status_code == 403
        assert 'violates PodSecurity "restricted:latest"' in answer.json()["message"]
    finally:
        cluster.client.delete(path_of(NAMESPACES, None, "charted-restricted"))
