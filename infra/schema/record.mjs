// Writes google.json.gz: the schemas of the resources that ../*.tf use, as `terraform providers schema -json` would say
// them, read from the npm package @cdktf/provider-google (MPL-2.0). Run by tools/infra-schema after a resource of a new
// type joined.
//
//   node record.mjs PACKAGE/lib OUT TYPE…
import fs from "node:fs";
import zlib from "node:zlib";
const [lib, out, ...res] = process.argv.slice(2);
const kebab = s => s.replace(/^google_/, '').replaceAll('_', '-');
function classes(src) {
  const out = {};
  const re = /^class (\w+) extends cdktf\.(TerraformResource|TerraformProvider|ComplexObject|ComplexList)\b/gm;
  const marks = [...src.matchAll(re)];
  marks.forEach((m, i) => { out[m[1]] = { kind: m[2], body: src.slice(m.index, marks[i + 1]?.index ?? src.length) } });
  return out;
}
const prim = { getStringAttribute: 'string', getNumberAttribute: 'number', getBooleanAttribute: 'bool', getListAttribute: ['list', 'string'], getNumberListAttribute: ['list', 'number'], getStringMapAttribute: ['map', 'string'], getNumberMapAttribute: ['map', 'number'], getBooleanMapAttribute: ['map', 'bool'] };
const wrap = { StringMap: ['map', 'string'], NumberMap: ['map', 'number'], BooleanMap: ['map', 'bool'], StringMapList: ['list', ['map', 'string']] };
function members(cs, name) {
  const b = cs[name].body, ms = [];
  const news = {};
  for (const m of b.matchAll(/this\._(\w+) = new (cdktf\.)?(\w+)\(this, "([^"]+)"(?:, (true|false))?\)/g)) news[m[1]] = { cls: m[3], core: !!m[2], tf: m[4], set: m[5] === 'true' };
  for (const m of b.matchAll(/^    get (\w+)\(\) \{\s*(?:\/\/[^\n]*\n\s*)?return ([^;]+);/gm)) {
    const [, js, expr] = m;
    if (js.endsWith('Input') || js === 'internalValue') continue;
    const put = new RegExp(`^    (set ${js}\\(|put${js[0].toUpperCase() + js.slice(1)}\\()`, 'm').test(b);
    const opt = new RegExp(`^    reset${js[0].toUpperCase() + js.slice(1)}\\(`, 'm').test(b);
    let g, n;
    if ((g = expr.match(/this\.(get\w+Attribute)\('([^']+)'\)/))) {
      let t = prim[g[1]]; if (expr.includes('tolist')) t = ['set', t[1]];
      ms.push({ tf: g[2], type: t, put, opt });
    } else if ((g = expr.match(/^this\._(\w+)$/)) && (n = news[g[1]])) {
      if (n.core) ms.push({ tf: n.tf, type: wrap[n.cls] ?? 'string', put, opt });
      else ms.push({ tf: n.tf, cls: n.cls.replace(/(List|OutputReference)$/, 'OutputReference'), many: n.cls.endsWith('List') && !n.cls.endsWith('OutputReference'), set: n.set, put, opt });
    }
  }
  return ms;
}
const objType = (cs, cls) => ['object', Object.fromEntries(members(cs, cls).map(m => [m.tf, m.cls ? ['list', objType(cs, m.cls)] : m.type]))];
function block(cs, cls) {
  const o = { attributes: {}, block_types: {} };
  for (const m of members(cs, cls)) {
    if (m.cls && m.put) {
      const single = m.tf === 'timeouts';
      o.block_types[m.tf] = { nesting_mode: single ? 'single' : m.set ? 'set' : 'list', block: block(cs, m.cls), ...(m.opt || single ? {} : { min_items: 1 }), ...(m.many || single ? {} : { max_items: 1 }) };
    } else {
      const type = m.cls ? ['list', objType(cs, m.cls)] : m.type;
      const a = { type };
      if (!m.put) a.computed = true; else if (m.opt) { a.optional = true; if (m.tf === 'id') a.computed = true } else a.required = true;
      o.attributes[m.tf] = a;
    }
  }
  return o;
}
const rs = {};
for (const r of res) {
  const dir = `${lib}/${kebab(r)}`;
  let src = fs.readFileSync(`${dir}/index.js`, 'utf8');
  for (const f of fs.readdirSync(dir)) if (/structs.*\.js$/.test(f)) src = fs.readFileSync(`${dir}/${f}`, 'utf8') + src;
  const cs = classes(src);
  const root = Object.keys(cs).find(k => cs[k].kind === 'TerraformResource');
  rs[r] = { version: 0, block: block(cs, root) };
}
const pcs = classes(fs.readFileSync(`${lib}/provider/index.js`, 'utf8'));
const pblock = { attributes: {}, block_types: {} };
for (const m of pcs.GoogleProvider.body.matchAll(/^            (\w+): \{\s*value: ([^\n]+)\n\s*isBlock: (\w+),\s*type: "(\w+)",\s*storageClassType: "(\w+)"/gm)) {
  if (m[3] === 'true') continue;
  const t = { string: 'string', number: 'number', boolean: 'bool', stringList: ['list', 'string'], stringMap: ['map', 'string'] }[m[5]] ?? 'string';
  if (m[1] !== 'alias') pblock.attributes[m[1]] = { type: t, optional: true };
}
const recorded = { format_version: '1.0', provider_schemas: { 'registry.terraform.io/hashicorp/google': { provider: { version: 0, block: pblock }, resource_schemas: rs } } };
fs.writeFileSync(out, zlib.gzipSync(JSON.stringify(recorded), { level: 9 }));
