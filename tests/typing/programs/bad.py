"""What must not type-check: each line marked with the error that mypy gives there."""

from attestation import Claims, reference_values
import cloister
from cloister.session import CallerSession

values = reference_values.parse(b"{}")


async def main(claims: Claims, session: CallerSession) -> None:
    session.open(claims, None)  # E: arg-type
    session.open(b"a session key", None)  # E: arg-type
    await cloister.connect("tcp:h:1", None)  # E: arg-type
    await cloister.connect("tcp:h:1", values, identity=b"credential")  # E: arg-type
    await cloister.connect("tcp:h:1", values, verify=False)  # E: call-arg
    async with await cloister.connect("tcp:h:1", values) as client:
        await client.infer("m", {"x": [1.0]})  # E: dict-item
        answer = client.infer("m", {})
        print(answer.outputs)  # E: attr-defined
