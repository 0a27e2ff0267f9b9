// sigstore-js: `sign URL TOKEN STATEMENT OUT`, or `verify ROOT IDENTITY ISSUER BUNDLE…` (one line "ok" or why not for each).
const fs = require('fs');
const { createRequire } = require('module');
const need = createRequire(process.cwd() + '/');
const [what, ...rest] = process.argv.slice(2);

async function sign([url, token, statement, out]) {
  const { attest } = need('sigstore');
  const options = { fulcioURL: url, rekorURL: url, identityToken: fs.readFileSync(token, 'utf8'), tlogUpload: true };
  fs.writeFileSync(out, JSON.stringify(await attest(fs.readFileSync(statement), 'application/vnd.in-toto+json', options)));
}

function verify([root, identity, issuer, ...bundles]) {
  const { Verifier, toTrustMaterial, toSignedEntity } = need('@sigstore/verify');
  const { bundleFromJSON } = need('@sigstore/bundle');
  const { TrustedRoot } = need('@sigstore/protobuf-specs');
  const trust = toTrustMaterial(TrustedRoot.fromJSON(JSON.parse(fs.readFileSync(root))));
  for (const path of bundles) {
    try {
      const entity = toSignedEntity(bundleFromJSON(JSON.parse(fs.readFileSync(path))));
      new Verifier(trust).verify(entity, { subjectAlternativeName: identity, extensions: { issuer } });
      console.log('ok');
    } catch (error) {
      console.log(String(error.message).replace(/\n/g, ' ') || 'refused');
    }
  }
}

Promise.resolve(what === 'sign' ? sign(rest) : verify(rest)).catch((error) => {
  console.error(error.message, error.cause ? error.cause.message : '');
  process.exit(1);
});
