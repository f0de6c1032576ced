// What an integrator does first, with the types that openapi-typescript generates and openapi-fetch. Arguments: the server's address,
// its admin key, a folder with photos, a network to import.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import createClient from "openapi-fetch";
import type { components, paths } from "./faceid.js";

const [server, key, photos, network] = process.argv.slice(2) as [string, string, string, string];
const client = createClient<paths>({ baseUrl: server, headers: { "x-api-key": key } });

type Fields = Record<string, unknown>;

/** A form of a request: files as they are, texts as they are, everything else as JSON. */
function form(body: Fields): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    if (value === undefined) continue;
    if (value instanceof Blob) form.append(name, value, "photo");
    else form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  }
  return form;
}

const multipart = { bodySerializer: (body: unknown) => form(body as Fields) };

/** openapi-typescript calls the bytes of a file a string. */
const bytes = async (path: string) => new Blob([new Uint8Array(await readFile(path))]) as unknown as string;
const photo = (name: string) => bytes(`${photos}/${name}.jpg`);

function expect<T>(answer: { data?: T; error?: unknown; response: Response }, status: number): T {
  assert.equal(answer.response.status, status, JSON.stringify(answer.error));
  return answer.data as T;
}

/** The events of a job, until it is finished. */
async function* events(job: string): AsyncGenerator<{ kind: string; data: Fields }> {
  const answer = await client.GET("/admin/jobs/{job}/events", { params: { path: { job } }, parseAs: "stream" });
  let text = "";
  for await (const piece of answer.response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const data = field("data");
      if (data === undefined) continue;
      const event = { kind: field("event") ?? "", data: JSON.parse(data) as Fields };
      yield event;
      if (event.kind === "state" && ["succeeded", "failed", "cancelled"].includes(String(event.data.state))) return;
    }
  }
}

const gallery = "typescript";
expect(await client.POST("/galleries", { body: { name: gallery } }), 201);
expect(await client.PATCH("/galleries/{gallery}", { params: { path: { gallery } }, body: { policy: { fpir: 0.01 } } }), 200);

const ada = { image: await photo("ada"), subject: "Ada", gallery, metadata: { badge: 7 } };
const enrolled = expect(await client.POST("/enroll", { body: ada, ...multipart }), 201);
const base64 = (await readFile(`${photos}/bob.jpg`)).toString("base64");
expect(await client.POST("/enroll", { body: { image: base64, subject: "Bob", gallery } }), 201);

const probe = { image: await photo("ada-2"), gallery, unique_subjects: false, max_faces: 1 };
const identified = expect(await client.POST("/identify", { body: probe, ...multipart }), 200);
assert(identified.faces[0]?.known);
assert.equal(identified.faces[0]?.matches[0]?.subject, "Ada");
const raw = { bodySerializer: (body: unknown) => body as BodyInit, headers: { "content-type": "image/jpeg" } };
const one = await client.POST("/identify", { params: { query: { gallery, top_k: 1 } }, body: await photo("ada-2"), ...raw });
assert.deepEqual(expect(one, 200).faces[0]?.matches.map((match) => match.subject), ["Ada"]);
const embedded = expect(await client.POST("/embed", { body: { image: await photo("ada-2") }, ...multipart }), 200);
const embedding = embedded.faces[0]?.embedding ?? [];
assert(expect(await client.POST("/identify/embedding", { body: { embedding, gallery, fpir: 0.01 } }), 200).known);
const pair = { image_a: await photo("ada"), image_b: await photo("bob") };
assert.equal(expect(await client.POST("/verify", { body: pair, ...multipart }), 200).same_person, false);
const chip = await client.GET("/faces/{face}/chip", { params: { path: { face: enrolled.face_id } }, parseAs: "arrayBuffer" });
assert.deepEqual([...new Uint8Array(chip.data as unknown as ArrayBuffer).slice(0, 2)], [0xff, 0xd8]);

const refused = await client.POST("/enroll", { body: { image: await photo("group"), subject: "Many", gallery }, ...multipart });
assert.equal(refused.response.status, 422);
const code: components["schemas"]["Code"] | undefined = refused.error?.code;
assert.equal(code, "multiple_faces");

for (const name of ["Cyd", "Dan", "Eve"]) expect(await client.POST("/subjects", { body: { name, gallery } }), 201);
const names: string[] = [];
for (let cursor: string | undefined = undefined, more = true; more; ) {
  const query = { gallery, limit: 2, ...(cursor === undefined ? {} : { cursor }) };
  const page: components["schemas"]["Page_Subject"] = expect(await client.GET("/subjects", { params: { query } }), 200);
  names.push(...page.items.map((subject) => subject.name));
  cursor = page.next_cursor ?? undefined;
  more = cursor !== undefined;
}
assert.deepEqual(names, ["Ada", "Bob", "Cyd", "Dan", "Eve"]);
const change = { params: { path: { subject: "Cyd" }, query: { gallery } }, body: { name: "Cy/d é" } };
const renamed = expect(await client.PATCH("/subjects/{subject}", change), 200);
const found = await client.GET("/subjects/{subject}", { params: { path: { subject: "Cy/d é" }, query: { gallery } } });
assert.equal(expect(found, 200).id, renamed.id);

const imported = await client.POST("/admin/models", { body: { file: await bytes(network) }, ...multipart });
assert([200, 201].includes(imported.response.status), JSON.stringify(imported.error));

const upload = { file: await bytes(`${photos}/people.zip`), gallery };
const job = expect(await client.POST("/admin/datasets", { body: upload, ...multipart }), 202);
let last: Fields = {};
for await (const event of events(job.id)) last = event.data;
assert.equal(last.state, "succeeded");
const kept = expect(await client.GET("/admin/jobs/{job}", { params: { path: { job: job.id } } }), 200);
assert.equal(kept.state, "succeeded");
const deleted = await client.DELETE("/galleries/{gallery}", { params: { path: { gallery } } });
assert([200, 202].includes(deleted.response.status));
