// Verifies what Usher signs with a stock library and a JWKS alone: node verify.mjs JWKS_URL TYP
// Reads a compact JWS from each line of the standard input, and writes a line of JSON for each:
// {"claims": {…}} when the library believes it, {"code": "ERR_…"} when it does not.
import { createInterface } from "node:readline";
import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // before Node 20
const { createRemoteJWKSet, jwtVerify } = await import("jose");

const [url, typ] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(url));
for await (const text of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { claims: (await jwtVerify(text, keys, { typ })).payload };
  } catch (error) {
    answer = { code: error.code ?? String(error) };
  }
  console.log(JSON.stringify(answer));
}
