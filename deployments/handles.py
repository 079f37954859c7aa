"""What Ray Serve's handles offer and is not settled yet, in one place: calling every replica, chains, and outages.

``broadcast`` is alpha in Ray 2.60: it reaches the replicas that run when it is called, and fails where there is none.
"""

from typing import Any

_WRAPPINGS = 4


async def call_every_replica(handle: Any, method: str, *arguments: object) -> None:
    """Call a method of every replica of a deployment that runs now; return when all have.

    Args:
        handle: Of the deployment.
        method: Its name.
        arguments: What it gets.

    Raises:
        Exception: The first failure of a replica.
    """
    # a routed call waits for the first replica, where a broadcast would find none
    await getattr(handle, method).remote(*arguments)
    await handle.broadcast(method, *arguments).results_async()


async def ask_every_replica(handle: Any, method: str, *arguments: object) -> list[object]:
    """Call a method of every replica of a deployment that runs now.

    Returns:
        What each has answered; in place of one that has failed, why.
    """
    answers: list[object] = await handle.broadcast(method, *arguments).results_async(return_exceptions=True)
    return answers


async def count_replicas(handle: Any) -> int:
    """Count the replicas of a deployment that run now and pass their health check."""
    try:
        answers = await ask_every_replica(handle, "check_health")
    except Exception as error:
        if is_outage(error):
            return 0
        raise
    return sum(not isinstance(answer, BaseException) for answer in answers)


async def passed_on(response: Any) -> Any:
    """Turn the response of one deployment into an argument for the next.

    A reference is passed on before the value is there. Where responses come by value, as gRPC brings them, the value
    passes through here in any case; and Ray 2.60 would ask for ever, and never fail, if the replica that makes it dies.

    Args:
        response: What calling a method of a handle returned.
    """
    return response if response.by_reference else await response


def is_outage(error: BaseException | None) -> bool:
    """Whether a call failed because its replica died, or there is none: another one may answer.

    Args:
        error: What awaiting a handle's response raised.
    """
    # here, because placements without handles load no Ray
    from ray.exceptions import ObjectLostError, RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

    outages = (RayActorError, ObjectLostError, DeploymentUnavailableError, ReplicaUnavailableError)
    for _ in range(_WRAPPINGS):
        if error is None or isinstance(error, outages):
            break
        # the error of a stage whose own argument was lost wraps the reason
        error = getattr(error, "cause", None) or error.__cause__
    return isinstance(error, outages)
