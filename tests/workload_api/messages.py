"""The messages of the SPIFFE Workload API, encoded and decoded by Google's protobuf library."""

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from exclave.workload_api.connection import X509Svid

Field = descriptor_pb2.FieldDescriptorProto


def make_class() -> type[message.Message]:
    """X509SVIDResponse as spiffe/spiffe's workloadapi.proto has it."""
    file = descriptor_pb2.FileDescriptorProto(name="workloadapi.proto", syntax="proto3")
    svid = file.message_type.add(name="X509SVID")
    kinds = (("spiffe_id", Field.TYPE_STRING), ("x509_svid", Field.TYPE_BYTES), ("x509_svid_key", Field.TYPE_BYTES))
    more = (("bundle", Field.TYPE_BYTES), ("hint", Field.TYPE_STRING))
    for number, (name, kind) in enumerate((*kinds, *more), 1):
        svid.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)
    response = file.message_type.add(name="X509SVIDResponse")
    repeated = {"label": Field.LABEL_REPEATED}
    response.field.add(name="svids", number=1, type=Field.TYPE_MESSAGE, type_name=".X509SVID", **repeated)
    response.field.add(name="crl", number=2, type=Field.TYPE_BYTES, **repeated)
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    bundles = ".X509SVIDResponse.FederatedBundlesEntry"
    response.field.add(name="federated_bundles", number=3, type=Field.TYPE_MESSAGE, type_name=bundles, **repeated)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("X509SVIDResponse")
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(found)
    return message_factory.MessageFactory(pool).GetPrototype(found)  # protobuf before 4.22


Response = make_class()


def encode_by_google(*found: X509Svid) -> message.Message:
    response = Response()
    for one in found:
        response.svids.add(  # type: ignore[attr-defined]
            spiffe_id=one.spiffe_id, x509_svid=one.certificates, x509_svid_key=one.key, bundle=one.bundle
        )
    return response


def decode_response(content: bytes) -> tuple[X509Svid, ...]:
    """The certificates of an X509SVIDResponse."""
    response = Response.FromString(content)
    return tuple(
        X509Svid(one.spiffe_id, one.x509_svid, one.x509_svid_key, one.bundle)
        for one in response.svids  # type: ignore[attr-defined]
    )
