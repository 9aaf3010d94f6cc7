"""Every message, field, type and number of our .proto is Triton's: `triton_numbers.py OURS`, a serialised descriptor, in hex."""

import sys

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, MethodDescriptorProto
from tritonclient.grpc import service_pb2


def compare(ours: DescriptorProto, theirs: dict[str, DescriptorProto], path: str) -> list[str]:
    """The differences, as texts; what they have beyond ours is none."""
    known = theirs.get(ours.name)
    if known is None:
        return [f"{path}{ours.name} is not theirs"]
    fields = {field.name: (field.number, field.type, field.label, field.type_name) for field in known.field}
    wrong = [
        f"{path}{ours.name}.{field.name}"
        for field in ours.field
        if fields.get(field.name) != (field.number, field.type, field.label, field.type_name)
    ]
    inner = {message.name: message for message in known.nested_type}
    return wrong + [text for message in ours.nested_type for text in compare(message, inner, f"{path}{ours.name}.")]


def _method(method: MethodDescriptorProto) -> tuple[object, ...]:
    return method.name, method.input_type, method.output_type, method.client_streaming, method.server_streaming


def main(text: str) -> int:
    """0 where nothing differs."""
    ours = FileDescriptorProto.FromString(bytes.fromhex(text))
    theirs = FileDescriptorProto.FromString(service_pb2.DESCRIPTOR.serialized_pb)
    known = {message.name: message for message in theirs.message_type}
    wrong = [text for message in ours.message_type for text in compare(message, known, "")]
    methods = [_method(method) for method in theirs.service[0].method]
    wrong += [method.name for method in ours.service[0].method if _method(method) not in methods]
    print(f"{len(ours.message_type)} messages, {len(ours.service[0].method)} methods compared: {len(wrong)} differ {wrong}")
    return 1 if wrong or ours.service[0].name != theirs.service[0].name else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
