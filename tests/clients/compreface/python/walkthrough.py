"""Every public call of CompreFace's Python SDK. Arguments: the server's address, a folder with the test photos, a key for a gallery
that is empty, a key for another one."""

from __future__ import annotations

import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

from compreface import CompreFace
from compreface.collections import FaceCollection, Subjects
from compreface.exceptions import IncorrectFieldException
from compreface.service import DetectionService, RecognitionService, VerificationService

# CompreFace's numbers.
UNKNOWN_KEY, KEY_MALFORMED, NO_IMAGE, OUT_OF_RANGE, NO_FACE, SEVERAL_FACES = 10, 26, 21, 26, 28, 31
FORBIDDEN_CHARACTER, UNKNOWN_SUBJECT, SUBJECT_EXISTS, UNKNOWN_IMAGE = 36, 42, 43, 44

EVERYTHING = {"limit": 0, "det_prob_threshold": 0.8, "status": True, "face_plugins": "calculator,age,gender,landmarks,mask"}
VERSIONS = {"detector", "calculator", "landmarks"}
CORNERS = ("x_min", "y_min", "x_max", "y_max")


class Photos:
    """The test photos, by what they show."""

    def __init__(self, folder: Path):
        scenes = folder / "scenes"
        self.ada, self.ada_again, self.bob = (str(scenes / f"{name}.jpg") for name in ("007_B", "008_B", "009_C"))
        self.two, self.group, self.nobody = (str(scenes / f"{name}.jpg") for name in ("010_2", "000_5", "017_0"))
        self.unreadable = str(folder / "bad/corrupted.png")
        self.people = {path.name: sorted(path.glob("*.jpg")) for path in sorted((folder / "lfw100").iterdir()) if path.is_dir()}


def failed(answer: dict, code: int) -> None:
    assert answer.keys() == {"message", "code"}, answer
    assert answer["code"] == code and isinstance(answer["message"], str) and answer["message"], answer


def check_face(face: dict, more: set[str] = frozenset(), everything: bool = False) -> None:
    expected = {"box"} | more | ({"landmarks", "embedding", "execution_time"} if everything else set())
    assert face.keys() == expected, face.keys()
    box = face["box"]
    assert box.keys() == {"probability", *CORNERS}, box
    assert all(type(box[corner]) is int for corner in CORNERS), box
    assert box["x_min"] < box["x_max"] and box["y_min"] < box["y_max"] and 0 < box["probability"] <= 1, box
    if everything:
        assert len(face["landmarks"]) == 5 and all(type(x) is int and type(y) is int for x, y in face["landmarks"])
        assert abs(sum(number * number for number in face["embedding"]) - 1) < 1e-3
        assert {"detector", "calculator"} <= face["execution_time"].keys(), face["execution_time"]


def check_similarity(similarity: float) -> None:
    assert 0 <= similarity <= 1 and round(similarity, 5) == similarity, similarity


def areas(faces: list[dict]) -> list[int]:
    boxes = [face["box"] for face in faces]
    return [(box["x_max"] - box["x_min"]) * (box["y_max"] - box["y_min"]) for box in boxes]


def check_settings(face: CompreFace, host: str, port: str, key: str) -> None:
    assert (face.domain, face.port, face.options) == (host, port, {})
    face.domain, face.port, face.options = "http://elsewhere", "1", {"limit": 1}
    assert (face.domain, face.port, face.options) == ("http://elsewhere", "1", {"limit": 1})
    face.domain, face.port, face.options = host, port, {}
    services = (face.init_face_recognition(key), face.init_face_verification(key), face.init_face_detection(key))
    for service, kind in zip(services, (RecognitionService, VerificationService, DetectionService)):
        assert isinstance(service, kind) and service.api_key == key and service.options == {}
        assert service.get_available_functions() == []
    assert services == (face.recognition, face.verification, face.detection)


def check_subjects(subjects: Subjects) -> None:
    assert subjects.list() == {"subjects": []}
    for name in ("Ada Lovelace", "Zoë Müller", "李小龙"):
        assert subjects.add(name) == {"subject": name}
    assert set(subjects.list()["subjects"]) == {"Ada Lovelace", "Zoë Müller", "李小龙"}
    for taken in ("Ada Lovelace", "ada LOVELACE", "ZOË MÜLLER"):
        failed(subjects.add(taken), SUBJECT_EXISTS)
    for refused in ("a/b", "a;b", "a\\b"):
        failed(subjects.add(refused), FORBIDDEN_CHARACTER)
    failed(subjects.add("x" * 51), OUT_OF_RANGE)
    failed(subjects.add(" "), OUT_OF_RANGE)

    assert subjects.update("Zoë Müller", "Zoë") == {"updated": True}
    assert subjects.update("Zoë", "Zoë") == {"updated": False}
    assert subjects.update("nobody", "nobody") == {"updated": False}  # not even looked for
    assert subjects.update("ZOË", "zoë") == {"updated": True}
    failed(subjects.update("nobody", "somebody"), UNKNOWN_SUBJECT)
    failed(subjects.update("zoë", "x" * 51), OUT_OF_RANGE)
    failed(subjects.update("zoë", "a/b"), FORBIDDEN_CHARACTER)
    assert set(subjects.list()["subjects"]) == {"Ada Lovelace", "zoë", "李小龙"}

    assert subjects.delete("ZOË") == {"subject": "zoë"}
    failed(subjects.delete("zoë"), UNKNOWN_SUBJECT)
    assert subjects.delete_all() == {"deleted": 2}
    assert subjects.list() == {"subjects": []} and subjects.delete_all() == {"deleted": 0}


def check_collection(faces: FaceCollection, subjects: Subjects, photos: Photos, served: str) -> None:
    empty = {"faces": [], "page_number": 0, "page_size": 20, "total_pages": 0, "total_elements": 0}
    assert faces.list() == empty
    first = faces.add(photos.ada, "Ada")
    assert first.keys() == {"image_id", "subject"} and first["subject"] == "Ada" and UUID(first["image_id"])
    again = faces.add(Path(photos.ada).read_bytes(), "ADA", {"det_prob_threshold": 0.8})  # the same photo, as bytes
    assert again["subject"] == "ADA" and again["image_id"] != first["image_id"]
    other = faces.add(f"{served}/scenes/009_C.jpg", "Zoë Müller")  # the SDK fetches it
    assert set(subjects.list()["subjects"]) == {"Ada", "Zoë Müller"}
    listed = faces.list()
    assert listed == {**empty, "faces": listed["faces"], "total_pages": 1, "total_elements": 3}, listed
    expected = [("Ada", first["image_id"]), ("Ada", again["image_id"]), ("Zoë Müller", other["image_id"])]
    assert all(face.keys() == {"image_id", "subject"} for face in listed["faces"])
    assert sorted((face["subject"], face["image_id"]) for face in listed["faces"]) == sorted(expected)

    failed(faces.add(photos.nobody, "Nobody"), NO_FACE)
    failed(faces.add(photos.unreadable, "Nobody"), NO_FACE)
    failed(faces.add(b"no image", "Nobody"), NO_FACE)
    failed(faces.add(photos.group, "Many"), SEVERAL_FACES)
    failed(faces.add(__file__, "Nobody"), NO_IMAGE)
    failed(faces.add(photos.ada, ""), OUT_OF_RANGE)
    assert len(subjects.list()["subjects"]) == 2  # nobody came about by what was refused

    check_verify(faces, photos, first["image_id"])
    merge(faces, subjects, first["image_id"], other["image_id"])

    assert faces.delete(again["image_id"]) == {"image_id": again["image_id"], "subject": "Zoë Müller"}
    failed(faces.delete(again["image_id"]), UNKNOWN_IMAGE)
    failed(faces.delete("7"), OUT_OF_RANGE)
    for image in (first, other):
        faces.delete(image["image_id"])
    assert subjects.list() == {"subjects": ["Zoë Müller"]}  # who stays, even without an example
    faces.add(photos.ada, "Ada"), faces.add(photos.ada_again, "Ada")
    assert faces.delete_all("ada") == {"deleted": 2} and faces.delete_all("ada") == {"deleted": 0}
    failed(faces.delete_all(" "), OUT_OF_RANGE)
    assert subjects.list() == {"subjects": ["Zoë Müller"]}
    assert subjects.delete_all() == {"deleted": 1} and faces.list() == empty


def check_verify(faces: FaceCollection, photos: Photos, ada: str) -> None:
    answer = faces.verify(photos.ada_again, ada)
    assert answer.keys() == {"result"}
    [face] = answer["result"]
    check_face(face, {"subject", "similarity"})
    check_similarity(face["similarity"])
    assert face["subject"] == "Ada" and face["similarity"] > 0.6, face
    [face] = faces.verify(photos.bob, ada)["result"]
    assert face["subject"] == "Ada" and face["similarity"] < 0.4, face  # whose example it is, not who was found
    answer = faces.verify(photos.group, ada, EVERYTHING)
    assert answer.keys() == {"result", "plugins_versions"} and VERSIONS <= answer["plugins_versions"].keys()
    assert len(answer["result"]) == 5 and areas(answer["result"]) == sorted(areas(answer["result"]), reverse=True)
    for face in answer["result"]:
        check_face(face, {"subject", "similarity"}, everything=True)
    assert len(faces.verify(photos.group, ada, {"limit": 2})["result"]) == 2
    failed(faces.verify(photos.ada, str(uuid4())), UNKNOWN_IMAGE)
    failed(faces.verify(photos.nobody, str(uuid4())), NO_FACE)  # said first
    failed(faces.verify(photos.ada, "7"), OUT_OF_RANGE)


def merge(faces: FaceCollection, subjects: Subjects, *images: str) -> None:
    """A subject whose new name somebody has goes into them."""
    assert subjects.update("ada", "Zoë Müller") == {"updated": True}
    assert subjects.list() == {"subjects": ["Zoë Müller"]}
    listed = faces.list()
    assert {face["subject"] for face in listed["faces"]} == {"Zoë Müller"} and listed["total_elements"] == 3
    assert set(images) <= {face["image_id"] for face in listed["faces"]}


def check_recognition(face: CompreFace, recognition: RecognitionService, photos: Photos) -> None:
    faces, subjects = recognition.get_face_collection(), recognition.get_subjects()
    assert isinstance(faces, FaceCollection) and isinstance(subjects, Subjects)
    [found] = recognition.recognize(photos.ada)["result"]
    check_face(found, {"subjects"})
    assert found["subjects"] == []  # of an empty collection

    faces.add(photos.ada, "Ada"), faces.add(photos.ada_again, "Ada"), faces.add(photos.bob, "Bob")
    answer = recognition.recognize(photos.ada_again)
    assert answer.keys() == {"result"}
    [found] = answer["result"]
    [best] = found["subjects"]
    check_similarity(best["similarity"])
    assert best.keys() == {"subject", "similarity"} and best["subject"] == "Ada" and best["similarity"] > 0.9

    answer = recognition.recognize(photos.ada, {**EVERYTHING, "prediction_count": 5})
    assert answer.keys() == {"result", "plugins_versions"} and VERSIONS <= answer["plugins_versions"].keys()
    [found] = answer["result"]
    check_face(found, {"subjects"}, everything=True)
    assert [one["subject"] for one in found["subjects"]] == ["Ada", "Bob"]  # each once, the most similar first
    assert found["subjects"][1]["similarity"] < 0.4

    found = recognition.recognize(photos.group)["result"]
    assert len(found) == 5 and areas(found) == sorted(areas(found), reverse=True)
    assert all(len(one["subjects"]) == 1 for one in found)  # the nearest, however unlike
    assert areas(recognition.recognize(photos.group, {"limit": 2})["result"]) == areas(found)[:2]
    failed(recognition.recognize(photos.nobody), NO_FACE)
    failed(recognition.recognize(photos.ada, {"det_prob_threshold": 1.0}), NO_FACE)
    failed(recognition.recognize(photos.ada, {"prediction_count": 0}), OUT_OF_RANGE)
    failed(recognition.recognize(__file__), NO_IMAGE)
    refused_by_the_sdk(lambda: recognition.recognize(photos.ada, {"limit": -1}))

    # Options of the whole go to every service, those that it does not know as well.
    face.options = {**EVERYTHING, "prediction_count": 1, "limit": 1}
    recognition = face.init_face_recognition(recognition.api_key)
    check_face(recognition.recognize(photos.ada)["result"][0], {"subjects"}, everything=True)
    assert len(recognition.recognize(photos.group)["result"]) == 1
    check_face(face.init_face_detection(recognition.api_key).detect(photos.ada)["result"][0], everything=True)
    face.options = {}
    assert recognition.get_subjects().delete_all() == {"deleted": 2}


def refused_by_the_sdk(call) -> None:
    try:
        call()
    except IncorrectFieldException:
        return
    raise AssertionError("the SDK let it pass")


def check_detection(detection: DetectionService, photos: Photos, served: str) -> None:
    answer = detection.detect(photos.group)
    assert answer.keys() == {"result"} and len(answer["result"]) == 5
    for face in answer["result"]:
        check_face(face)
    assert areas(answer["result"]) == sorted(areas(answer["result"]), reverse=True)
    assert areas(detection.detect(photos.group, {"limit": 3})["result"]) == areas(answer["result"])[:3]
    answer = detection.detect(Path(photos.two).read_bytes(), EVERYTHING)
    assert answer.keys() == {"result", "plugins_versions"} and VERSIONS <= answer["plugins_versions"].keys()
    assert len(answer["result"]) == 2
    for face in answer["result"]:
        check_face(face, everything=True)
    assert len(detection.detect(f"{served}/scenes/010_2.jpg")["result"]) == 2
    failed(detection.detect(photos.nobody), NO_FACE)
    failed(detection.detect(photos.unreadable), NO_FACE)
    failed(detection.detect(b""), NO_FACE)


def check_verification(verification: VerificationService, photos: Photos) -> None:
    answer = verification.verify(photos.ada, photos.ada_again)
    assert answer.keys() == {"result"}
    [result] = answer["result"]
    assert result.keys() == {"source_image_face", "face_matches"}
    check_face(result["source_image_face"])
    [match] = result["face_matches"]
    check_face(match, {"similarity"})
    check_similarity(match["similarity"])
    assert match["similarity"] > 0.6, match
    [result] = verification.verify(photos.ada, photos.bob)["result"]
    assert result["face_matches"][0]["similarity"] < 0.4, result

    [result] = verification.verify(Path(photos.ada).read_bytes(), photos.group, EVERYTHING)["result"]
    assert result.keys() == {"source_image_face", "face_matches", "plugins_versions"}  # within, here
    assert VERSIONS <= result["plugins_versions"].keys()
    check_face(result["source_image_face"], everything=True)
    assert len(result["face_matches"]) == 5 and areas(result["face_matches"]) == sorted(areas(result["face_matches"]), reverse=True)
    for match in result["face_matches"]:
        check_face(match, {"similarity"}, everything=True)

    failed(verification.verify(photos.group, photos.ada), SEVERAL_FACES)
    [result] = verification.verify(photos.group, photos.group, {"limit": 1})["result"]  # the largest of each
    assert len(result["face_matches"]) == 1 and result["face_matches"][0]["similarity"] > 0.99
    failed(verification.verify(photos.nobody, photos.ada), NO_FACE)
    failed(verification.verify(photos.ada, photos.nobody), NO_FACE)
    failed(verification.verify(photos.ada, __file__), NO_IMAGE)


def check_keys(host: str, port: str, key: str, another: str, photos: Photos) -> None:
    for shown, code in ((str(uuid4()), UNKNOWN_KEY), ("short", KEY_MALFORMED)):
        face = CompreFace(host, port)
        recognition = face.init_face_recognition(shown)
        failed(recognition.recognize(photos.ada), code)
        failed(recognition.get_subjects().list(), code)
        failed(recognition.get_subjects().add("a/b"), code)  # a key comes before anything else
        failed(recognition.get_face_collection().list(), code)
        failed(face.init_face_detection(shown).detect(photos.ada), code)
        failed(face.init_face_verification(shown).verify(photos.ada, photos.ada), code)

    ours, theirs = (CompreFace(host, port).init_face_recognition(one) for one in (key, another))
    image = ours.get_face_collection().add(photos.ada, "Ada")["image_id"]
    assert theirs.get_subjects().list() == {"subjects": []}
    assert theirs.get_face_collection().list()["total_elements"] == 0
    assert theirs.recognize(photos.ada)["result"][0]["subjects"] == []
    failed(theirs.get_face_collection().verify(photos.ada, image), UNKNOWN_IMAGE)
    failed(theirs.get_face_collection().delete(image), UNKNOWN_IMAGE)
    assert theirs.get_face_collection().delete_all("Ada") == {"deleted": 0}
    failed(theirs.get_subjects().delete("Ada"), UNKNOWN_SUBJECT)
    assert theirs.get_subjects().delete_all() == {"deleted": 0}
    assert ours.get_subjects().delete_all() == {"deleted": 1}


def check_people(recognition: RecognitionService, photos: Photos) -> None:
    """One photo of each person is enrolled, the others are recognised. On two of those somebody is cut by the edge, who is less clear."""
    faces = recognition.get_face_collection()
    for person, (first, *_) in photos.people.items():
        added = faces.add(str(first), person, {"det_prob_threshold": 0.98})
        assert added.get("subject") == person, (person, added)
    right = wrong = 0
    for person, (_, *others) in photos.people.items():
        for photo in others:
            found = recognition.recognize(str(photo), {"limit": 0, "prediction_count": 1})["result"]
            best = min(found, key=off_centre)["subjects"][0]
            right, wrong = right + (best["subject"] == person), wrong + (best["subject"] != person)
    assert (right, wrong) == (90, 0), (right, wrong)
    assert recognition.get_subjects().delete_all() == {"deleted": len(photos.people)}
    print(f"compreface: the Python SDK recognises {right} of {right + wrong} photos of {len(photos.people)} people")


def off_centre(face: dict) -> float:
    """How far a face is from the middle of a photo of 250 by 250 pixels."""
    box = face["box"]
    return (box["x_min"] + box["x_max"] - 250) ** 2 + (box["y_min"] + box["y_max"] - 250) ** 2


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


def main(server: str, folder: Path, key: str, another: str) -> None:
    host, port = server.rsplit(":", 1)
    photos = Photos(folder)
    files = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=files.serve_forever, daemon=True).start()
    served = f"http://127.0.0.1:{files.server_port}"

    face = CompreFace(host, port)
    check_settings(face, host, port, key)
    recognition = face.init_face_recognition(key)
    check_subjects(recognition.get_subjects())
    check_collection(recognition.get_face_collection(), recognition.get_subjects(), photos, served)
    check_recognition(face, recognition, photos)
    check_detection(face.init_face_detection(key), photos, served)
    check_verification(face.init_face_verification(key), photos)
    check_keys(host, port, key, another, photos)
    check_people(recognition, photos)
    files.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
