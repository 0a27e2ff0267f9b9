# Proofs about the machinery, run by `tally build` before it believes any output, and by the tests.
#
#   nonce    makes the probes derivations that were never built before, so that they run now
#   canary   a file of the host that anybody may read: a sandbox hides it
{ toolkit, nonce ? "", canary ? "" }:
{
  seedProof = toolkit.seedProof;
  probe = import ./probe.nix { inherit toolkit nonce canary; };
  naive = import ./naive.nix { inherit toolkit; };
  reference = import ./reference.nix { inherit toolkit; };
}
