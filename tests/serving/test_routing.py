"""What Envoy is told, as golden values; slots move as few users as possible (DEMAND SRV-3)."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from windtunnel.home import Home
from windtunnel.serving import routing
from windtunnel.serving.local import envoy
from windtunnel.serving.routing import ModelRoute, Routed, Upstream, assign


def test_a_cluster_is_loopback_bounded_and_retries_nothing() -> None:
    found = routing.cluster(Upstream("visits", "3", 21001, max_concurrency=8, queue=16))
    assert found == {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "visits.v3",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "metadata": {"filter_metadata": {"windtunnel": {"model": "visits", "version": "3"}}},
        "load_assignment": {
            "cluster_name": "visits.v3",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 21001}}}}
                    ]
                }
            ],
        },
        "circuit_breakers": {
            "thresholds": [{"max_connections": 8, "max_pending_requests": 16, "max_requests": 24, "max_retries": 0}]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "30s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def test_two_arms_are_two_weighted_clusters_out_of_a_hundred() -> None:
    config = routing.routes([ModelRoute("visits", assign((), {"1": 95, "2": 5}), 2.5, "X-User", "1")])
    [resource] = config["resources"]
    names = [route["name"] for route in resource["virtual_hosts"][0]["routes"]]
    assert names == ["health", "infer:visits", "ready:visits", "nowhere"]
    assert resource["request_headers_to_remove"] == ["x-windtunnel-probe"]

    def tagged(version: str, weight: int) -> dict[str, object]:
        header = [
            {
                "header": {"key": "x-windtunnel-version", "value": version},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ]
        return {
            "name": f"visits.v{version}",
            "weight": weight,
            "request_headers_to_add": header,
            "response_headers_to_add": header,
        }

    assert resource["virtual_hosts"][0]["routes"][1] == {
        "name": "infer:visits",
        "match": {
            "path": "/v2/models/visits/infer",
            "headers": [{"name": ":method", "string_match": {"exact": "POST"}}],
        },
        "route": {
            "weighted_clusters": {"clusters": [tagged("1", 95), tagged("2", 5)], "use_hash_policy": True},
            "timeout": "2.500s",
            "hash_policy": [{"header": {"header_name": "x-user"}}],
        },
    }
    assert routing.routed_weights(resource) == {"visits": {"1": 95, "2": 5}}


def _set(key: str, value: str) -> dict[str, object]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def test_a_mirrored_model_copies_a_percentage_to_the_listener_of_copies() -> None:
    model = ModelRoute("visits", ("1",) * 100, mirror=("2", 35), segment_header="X-Country")
    [resource] = routing.routes([model])["resources"]
    route = resource["virtual_hosts"][0]["routes"][1]
    assert route["route"]["request_mirror_policies"] == [
        {
            "cluster": "windtunnel.shadow",
            "runtime_fraction": {"default_value": {"numerator": 35, "denominator": "HUNDRED"}},
        }
    ]
    assert route["request_headers_to_add"] == [
        _set("x-windtunnel-segment", "%REQ(x-country)%"),
        _set("x-windtunnel-copy-cluster", "visits.v2"),
        _set("x-windtunnel-copy-version", "2"),
    ]
    assert routing.routed(resource) == {"visits": Routed({"1": 100}, ("2", 35), None)}


def test_an_audience_is_a_route_before_the_weighted_one_and_is_never_copied() -> None:
    model = ModelRoute(
        "visits", ("1",) * 100, 2.5, mirror=("2", 100), audience=("X-Tester", "yes", "2"), segment_header="x-country"
    )
    [resource] = routing.routes([model])["resources"]
    routes = resource["virtual_hosts"][0]["routes"]
    assert [route["name"] for route in routes] == [
        "health", "audience:visits", "infer:visits", "ready:visits", "nowhere",
    ]  # fmt: skip
    assert routes[1] == {
        "name": "audience:visits",
        "match": {
            "path": "/v2/models/visits/infer",
            "headers": [
                {"name": ":method", "string_match": {"exact": "POST"}},
                {"name": "x-tester", "string_match": {"exact": "yes"}},
            ],
        },
        "route": {"cluster": "visits.v2", "timeout": "2.500s"},
        "request_headers_to_add": [
            _set("x-windtunnel-segment", "%REQ(x-country)%"),
            _set("x-windtunnel-audience", "true"),
            _set("x-windtunnel-version", "2"),
        ],
        "response_headers_to_add": [_set("x-windtunnel-version", "2")],
    }
    assert routing.routed(resource)["visits"].audience == ("x-tester", "yes", "2")


def test_where_nothing_serves_there_is_no_audience_either() -> None:
    [resource] = routing.routes([ModelRoute("visits", audience=("x-tester", "yes", "2"))])["resources"]
    assert [route["name"] for route in resource["virtual_hosts"][0]["routes"]] == [
        "health", "infer:visits", "ready:visits", "nowhere",
    ]  # fmt: skip


def test_copies_go_where_the_route_that_made_them_says_and_are_marked() -> None:
    assert routing.shadow_routes() == {
        "name": "windtunnel-shadow",
        "virtual_hosts": [
            {
                "name": "copies",
                "domains": ["*"],
                "request_headers_to_remove": ["x-windtunnel-copy-cluster", "x-windtunnel-copy-version"],
                "routes": [
                    {
                        "name": "shadow",
                        "match": {"prefix": "/"},
                        "route": {"cluster_header": "x-windtunnel-copy-cluster", "timeout": "0s"},
                        "request_headers_to_add": [
                            _set("x-windtunnel-shadow", "true"),
                            _set("x-windtunnel-version", "%REQ(x-windtunnel-copy-version)%"),
                        ],
                    }
                ],
            }
        ],
    }


def test_the_bootstrap_listens_for_clients_on_loopback_and_for_copies_on_a_private_socket(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config = envoy.bootstrap_config(home, 8085)
    listeners = {item["name"]: item for item in config["static_resources"]["listeners"]}
    assert listeners["inference"]["address"] == {"socket_address": {"address": "127.0.0.1", "port_value": 8085}}
    assert listeners["shadow"]["address"] == {"pipe": {"path": str(envoy.shadow_socket(home)), "mode": 0o600}}
    managers = {name: item["filter_chains"][0]["filters"][0]["typed_config"] for name, item in listeners.items()}
    removed = managers["inference"]["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    assert {item["remove"] for item in removed} == {
        "x-request-id", "x-windtunnel-version", "x-windtunnel-shadow", "x-windtunnel-audience",
        "x-windtunnel-copy-cluster", "x-windtunnel-copy-version",
    }  # fmt: skip
    assert managers["shadow"]["generate_request_id"] is False, "a copy keeps the id of its request"
    assert managers["shadow"]["access_log"] == managers["inference"]["access_log"], "one log, written by one hand"
    [cluster] = config["static_resources"]["clusters"]
    assert cluster["name"] == routing.SHADOW_CLUSTER
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"pipe": {"path": str(envoy.shadow_socket(home))}}
    assert min(value for key, value in cluster["circuit_breakers"]["thresholds"][0].items() if key != "max_retries") > (
        1_000_000
    ), "what is refused here would not be counted: the candidate's own cluster refuses"


def test_a_model_nothing_serves_answers_503_with_retry_after() -> None:
    [resource] = routing.routes([ModelRoute("visits")])["resources"]
    for route in resource["virtual_hosts"][0]["routes"][1:3]:
        assert route["direct_response"]["status"] == 503
        assert {"key": "retry-after", "value": "30"} in [h["header"] for h in route["response_headers_to_add"]]
    assert routing.routed_weights(resource) == {"visits": {}}


def test_the_version_of_a_configuration_follows_its_content_not_the_order_it_came_in() -> None:
    one, two = Upstream("a", "1", 1), Upstream("b", "1", 2)
    assert routing.clusters([one, two]) == routing.clusters([two, one])
    assert routing.clusters([one])["version_info"] != routing.clusters([two])["version_info"]


@pytest.mark.parametrize("weights", [{"1": 99}, {"1": 101}, {"1": 110, "2": -10}, {"1": 50, "2": 49}])
def test_weights_that_do_not_sum_are_refused(weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="sum to 100"):
        assign((), weights)


def test_nothing_may_serve() -> None:
    assert assign(assign((), {"1": 100}), {"1": 0}) == ()
    assert assign((), {}) == ()


@pytest.mark.parametrize("seed", range(20))
def test_slots_are_exact_and_only_those_that_must_move_do(seed: int) -> None:
    """Any walk over weights of up to four arms: exact counts, and as few slots as possible change hands."""
    rng = random.Random(seed)
    slots: tuple[str, ...] = ()
    for _ in range(50):
        cuts = sorted(rng.choices(range(101), k=3))
        weights = dict(zip("abcd", (b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)), strict=True))
        new = assign(slots, weights)
        assert Counter(new) == Counter({version: weight for version, weight in weights.items() if weight})
        if slots:
            before = Counter(slots)
            least = sum(max(0, weight - before[version]) for version, weight in weights.items())
            assert sum(a != b for a, b in zip(slots, new, strict=True)) == least
        slots = new


def test_two_arms_depend_on_their_weights_alone_not_on_the_way_there() -> None:
    straight = assign(assign((), {"1": 100}), {"1": 95, "2": 5})
    slots = straight
    for weight in (25, 50, 100, 0, 75, 5):
        slots = assign(slots, {"1": 100 - weight, "2": weight})
        assert slots == ("1",) * (100 - weight) + ("2",) * weight
    assert slots == straight
