import time
import uuid

from protos.request_id import is_request_id, new_request_id


def test_is_a_version_7_uuid_of_now():
    value = uuid.UUID(new_request_id())
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert abs((value.int >> 80) / 1000 - time.time()) < 5


def test_ids_differ_and_are_recognised():
    ids = {new_request_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(is_request_id(text) for text in ids)


def test_other_ids_are_not_ours():
    ours = new_request_id()
    for text in ("MRN12345", "", ours.upper(), ours.replace("-", ""), str(uuid.uuid4())):
        assert not is_request_id(text)
