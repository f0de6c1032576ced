"""What an integrator does first, with the client that openapi-python-client generates. Arguments: the server's address, its admin key,
a folder with photos, a network to import."""

from __future__ import annotations

import json
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from faceid_client import AuthenticatedClient
from faceid_client.api.admin import get_job, import_model, list_jobs, upload_dataset
from faceid_client.api.faces import get_chip
from faceid_client.api.galleries import change_gallery, create_gallery, delete_gallery
from faceid_client.api.recognition import detect_faces, embed_faces, enroll_face, identify_embedding, identify_faces, verify_pair
from faceid_client.api.subjects import change_subject, create_subject, get_subject, list_subjects
from faceid_client.models import (
    ChangeGallery, ChangeSubject, DatasetRequestForm, DetectRequestForm, EnrollRequest, EnrollRequestForm, IdentifyEmbeddingRequest,
    IdentifyRequestForm, Metadata, ModelUploadForm, NewGallery, NewSubject, Problem, VerifyRequestForm,
)
from faceid_client.types import File


def photo(path: Path) -> File:
    return File(payload=BytesIO(path.read_bytes()), file_name=path.name, mime_type="image/jpeg")


def expect(response, status: int):
    assert response.status_code == status, (response.status_code, response.content)
    return response.parsed


def events(client: AuthenticatedClient, job: str):
    """The events of a job, until it is finished."""
    with client.get_httpx_client().stream("GET", f"/admin/jobs/{job}/events", timeout=120) as response:
        kind = None
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
                yield kind, data
                if kind == "state" and data["state"] in ("succeeded", "failed", "cancelled"):
                    return


def main(server: str, key: str, photos: Path, network: Path) -> None:
    client = AuthenticatedClient(base_url=server, token=key, prefix="", auth_header_name="x-api-key")
    ada, ada_again, bob, group = (photos / f"{name}.jpg" for name in ("ada", "ada-2", "bob", "group"))

    gallery = expect(create_gallery.sync_detailed(client=client, body=NewGallery(name="python")), 201)
    changed = expect(change_gallery.sync_detailed("python", client=client, body=ChangeGallery.from_dict({"policy": {"fpir": 0.01}})), 200)
    assert changed.id == gallery.id

    # A form with metadata, JSON with base64, and the raw photo with the fields in the query string.
    metadata = Metadata.from_dict({"badge": 7})
    form = EnrollRequestForm(image=photo(ada), subject="Ada", gallery="python", metadata=metadata, min_face=20)
    enrolled = expect(enroll_face.sync_detailed(client=client, body=form), 201)
    import base64
    body = EnrollRequest(image=base64.b64encode(bob.read_bytes()).decode(), subject="Bob", gallery="python", metadata=metadata)
    expect(enroll_face.sync_detailed(client=client, body=body), 201)

    answer = expect(identify_faces.sync_detailed(client=client, body=IdentifyRequestForm(image=photo(ada_again), gallery="python", unique_subjects=False, max_faces=1)), 200)
    assert answer.faces[0].known and answer.faces[0].matches[0].subject == "Ada"
    answer = expect(identify_faces.sync_detailed(client=client, body=photo(ada_again), gallery="python", top_k=1), 200)
    assert [match.subject for match in answer.faces[0].matches] == ["Ada"]
    embedded = expect(embed_faces.sync_detailed(client=client, body=DetectRequestForm(image=photo(ada_again))), 200)
    probe = IdentifyEmbeddingRequest(embedding=embedded.faces[0].embedding, gallery="python", fpir=0.01)
    assert expect(identify_embedding.sync_detailed(client=client, body=probe), 200).known
    verified = expect(verify_pair.sync_detailed(client=client, body=VerifyRequestForm(image_a=photo(ada), image_b=photo(bob))), 200)
    assert not verified.same_person
    assert len(expect(detect_faces.sync_detailed(client=client, body=photo(group)), 200).faces) == 5
    assert get_chip.sync_detailed(enrolled.face_id, client=client).content[:2] == b"\xff\xd8"

    refused = expect(enroll_face.sync_detailed(client=client, body=EnrollRequestForm(image=photo(group), subject="Many", gallery="python")), 422)
    assert isinstance(refused, Problem) and refused.code.value == "multiple_faces", refused

    for name in ("Cyd", "Dan", "Eve"):
        expect(create_subject.sync_detailed(client=client, body=NewSubject(name=name, gallery="python")), 201)
    names, cursor = [], None
    while True:
        page = expect(list_subjects.sync_detailed(client=client, gallery="python", limit=2, **({"cursor": cursor} if cursor else {})), 200)
        names += [subject.name for subject in page.items]
        cursor = page.next_cursor
        if not cursor:
            break
    assert names == ["Ada", "Bob", "Cyd", "Dan", "Eve"], names
    renamed = expect(change_subject.sync_detailed("Cyd", client=client, gallery="python", body=ChangeSubject(name="Cy/d é")), 200)
    assert expect(get_subject.sync_detailed("Cy/d é", client=client, gallery="python"), 200).id == renamed.id

    imported = import_model.sync_detailed(client=client, body=ModelUploadForm(file=File(payload=BytesIO(network.read_bytes()), file_name=network.name)))
    assert imported.status_code in (200, 201), imported.content

    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as people:
        for folder in sorted(path for path in (photos / "people").iterdir() if path.is_dir())[:3]:
            for path in sorted(folder.glob("*.jpg"))[:2]:
                people.write(path, f"{folder.name}/{path.name}")
    archive.seek(0)
    job = expect(upload_dataset.sync_detailed(client=client, body=DatasetRequestForm(file=File(payload=archive, file_name="people.zip", mime_type="application/zip"), gallery="python")), 202)
    seen = list(events(client, job.id))
    assert seen[-1][1]["state"] == "succeeded" and seen[-1][1]["result"]["faces"] == 6, seen[-1]
    assert expect(get_job.sync_detailed(job.id, client=client), 200).state.value == "succeeded"
    assert any(item.id == job.id for item in expect(list_jobs.sync_detailed(client=client, limit=5), 200).items)
    assert delete_gallery.sync_detailed("python", client=client).status_code in (200, 202)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
