"""Exercises redis-py: ROOT_SOCKET LEAF_SOCKET PROTOCOL, where PROTOCOL is 2, 3 or default."""

import sys

import redis


def main(root_socket: str, leaf_socket: str, protocol: str) -> None:
    options = {} if protocol == "default" else {"protocol": int(protocol)}
    options["decode_responses"] = True
    root = redis.Redis(unix_socket_path=root_socket, **options)
    leaf = redis.Redis(unix_socket_path=leaf_socket, **options)
    prefix = f"py-{protocol}:"

    assert root.ping()
    assert root.set(prefix + "a", "1") is True
    assert root.get(prefix + "a") == "1"
    assert root.get(prefix + "nobody") is None
    assert root.set(prefix + "a", "2", nx=True) is None
    assert root.mset({prefix + "b": "2", prefix + "c": "3"}) is True
    assert root.mget(prefix + "a", prefix + "nobody", prefix + "c") == ["1", None, "3"]

    pipeline = root.pipeline(transaction=False)
    for n in range(100):
        pipeline.set(f"{prefix}n{n:03}", n)
    assert pipeline.execute() == [True] * 100

    transaction = root.pipeline(transaction=True)
    transaction.delete(prefix + "b")
    transaction.set(prefix + "d", "4")
    transaction.get(prefix + "d")
    assert transaction.execute() == [1, True, "4"]

    assert len(set(root.scan_iter(match=prefix + "n*"))) == 100
    assert root.exists(prefix + "a", prefix + "b") == 1
    assert root.strlen(prefix + "a") == 1
    assert root.info()["role"] == "master"
    assert root.wait(1, 60_000) == 1

    assert leaf.get(prefix + "d") == "4"
    assert leaf.info()["role"] == "slave"
    try:
        leaf.set(prefix + "a", "2")
    except redis.exceptions.ReadOnlyError as refused:
        assert "root" in str(refused), refused
    else:
        raise AssertionError("a leaf accepted a write")
    try:
        root.set(prefix + "a", "2", ex=10)
    except redis.exceptions.ResponseError as refused:
        assert "expire" in str(refused), refused
    else:
        raise AssertionError("an expiry was ignored")
    print(f"redis-py {redis.__version__}, protocol {protocol}: ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
