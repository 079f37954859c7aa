"""Replicas are counted from what the nodes of a server export."""

from loadtest.replicas import count_replicas, healthy_replicas

NODE = """# HELP ray_serve_deployment_replica_healthy Tracks whether this deployment replica is healthy.
ray_serve_deployment_replica_healthy{application="duet",deployment="Gateway",replica="a"} 1.0
ray_serve_deployment_replica_healthy{application="duet",deployment="Gateway",replica="b"} 0.0
ray_serve_deployment_replica_healthy{application="duet",deployment="Encoder",replica="c"} 1.0
ray_serve_num_http_requests_total{deployment="Gateway"} 7.0
"""


def test_healthy_ones_add_up_over_nodes():
    assert healthy_replicas([NODE, NODE]) == {"Gateway": 2, "Encoder": 2}


def test_a_deployment_without_a_healthy_replica_has_none():
    assert healthy_replicas([NODE.replace('"a"} 1.0', '"a"} 0.0')]) == {"Gateway": 0, "Encoder": 1}


def test_a_server_that_does_not_tell_has_no_line_in_the_plot():
    assert count_replicas("http://127.0.0.1:9") == {}
