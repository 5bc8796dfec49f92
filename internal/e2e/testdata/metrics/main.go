// Command metrics is an external metrics API for the end-to-end tests: every metric of
// every namespace is 2. Whoever asks trusts any certificate.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path"
	"time"
)

const groupVersion = "external.metrics.k8s.io/v1beta1"

func main() {
	if err := serve(":8443"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(address string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: address, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
	}
	return server.ListenAndServeTLS("", "")
}

// answer knows the API's list of resources, and lists of values.
func answer(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	const root = "/apis/" + groupVersion
	if r.URL.Path == root {
		body = map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": groupVersion, "resources": []any{}}
	} else if matched, err := path.Match(root+"/namespaces/*/*", r.URL.Path); err == nil && matched {
		body = map[string]any{
			"kind": "ExternalMetricValueList", "apiVersion": groupVersion, "metadata": map[string]any{},
			"items": []any{map[string]any{
				"metricName": path.Base(r.URL.Path), "metricLabels": map[string]any{}, "timestamp": time.Now().UTC().Format(time.RFC3339), "value": "2",
			}},
		}
	} else {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
