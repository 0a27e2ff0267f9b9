// Opinion says what Google's verifiers think of evidence: "ok", or "refused: why". It asks nobody: certificates and
// collateral are files.
//
//	opinion snp REPORT VEK PRODUCT ROOTS TIME     (ROOTS: folder of ARK-, SEV- and SEV-VLEK-<product>.pem)
//	opinion tdx QUOTE COLLATERAL.json TIME        (- for the signatures and the chain alone)
package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	sev "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	tdx "github.com/google/go-tdx-guest/verify"
)

func read(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return data
}

func certificate(path string) *x509.Certificate {
	block, _ := pem.Decode(read(path))
	if block == nil {
		return nil
	}
	found, _ := x509.ParseCertificate(block.Bytes)
	return found
}

func snp(report, key, product, folder string, now time.Time) error {
	proto, err := abi.ReportToProto(read(report))
	if err != nil {
		return err
	}
	chain := &spb.CertificateChain{}
	if info, err := abi.ParseSignerInfo(proto.GetSignerInfo()); err != nil {
		return err
	} else if info.SigningKey == abi.VlekReportSigner {
		chain.VlekCert = read(key)
	} else {
		chain.VcekCert = read(key)
	}
	certs := &trust.ProductCerts{
		Ark:  certificate(folder + "/ARK-" + product + ".pem"),
		Ask:  certificate(folder + "/SEV-" + product + ".pem"),
		Asvk: certificate(folder + "/SEV-VLEK-" + product + ".pem"),
	}
	options := &sev.Options{DisableCertFetching: true, Now: now, TrustedRoots: map[string][]*trust.AMDRootCerts{
		product: {{Product: product, ProductLine: product, ProductCerts: certs}},
	}}
	if options.Product, err = kds.ParseProductName(product+"-B0", abi.VcekReportSigner); err != nil {
		return err
	}
	return sev.SnpAttestation(&spb.Attestation{Report: proto, CertificateChain: chain, Product: options.Product}, options)
}

// collateral answers in the PCS's place.
type collateral map[string]string

func (c collateral) Get(address string) (map[string][]string, []byte, error) {
	binary := func(name string) []byte {
		data, _ := hex.DecodeString(c[name])
		return data
	}
	signed := func(field, name string) []byte {
		return []byte(fmt.Sprintf(`{"%s":%s,"signature":"%s"}`, name, c[field], c[field+"_signature"]))
	}
	header := func(name, field string) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(c[field])}}
	}
	switch {
	case strings.Contains(address, "/qe/identity"):
		return header("Sgx-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
			signed("qe_identity", "enclaveIdentity"), nil
	case strings.Contains(address, "/tcb?"):
		return header("Tcb-Info-Issuer-Chain", "tcb_info_issuer_chain"), signed("tcb_info", "tcbInfo"), nil
	case strings.Contains(address, "/pckcrl"):
		return header("Sgx-Pck-Crl-Issuer-Chain", "pck_crl_issuer_chain"), binary("pck_crl"), nil
	case strings.Contains(address, "IntelSGXRootCA"):
		return nil, binary("root_ca_crl"), nil
	}
	return nil, nil, fmt.Errorf("nobody answers %s", address)
}

func quote(file, answers string, now time.Time) error {
	if answers == "-" {
		return tdx.RawTdxQuote(read(file), &tdx.Options{Now: now})
	}
	known := collateral{}
	raw := map[string]any{}
	if err := json.Unmarshal(read(answers), &raw); err != nil {
		return err
	}
	for name, value := range raw {
		if text, ok := value.(string); ok {
			known[name] = text
		}
	}
	options := &tdx.Options{CheckRevocations: true, GetCollateral: true, Getter: known, Now: now}
	return tdx.RawTdxQuote(read(file), options)
}

func main() {
	now, err := time.Parse(time.RFC3339, os.Args[len(os.Args)-1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	switch os.Args[1] {
	case "snp":
		err = snp(os.Args[2], os.Args[3], os.Args[4], os.Args[5], now)
	case "tdx":
		err = quote(os.Args[2], os.Args[3], now)
	}
	if err != nil {
		fmt.Println("refused:", err)
		return
	}
	fmt.Println("ok")
}
