package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrPeer is returned (wrapped) by a handshake with a peer that holds another
// key than the one the session was made for.
var ErrPeer = errors.New("the peer does not hold this session's key")

// Identity is one side's key and certificate, PEM encoded so that it can be
// stored in a Secret. The zero value is not usable: see [NewPair].
type Identity struct {
	Certificate string `json:"certificate"` // PEM block CERTIFICATE
	Key         string `json:"key"`         // PEM block PRIVATE KEY (PKCS #8): secret
}

// NewPair makes the identities of both sides of one session.
func NewPair() (agent, client Identity, err error) {
	if agent, err = newIdentity(); err != nil {
		return agent, client, err
	}
	client, err = newIdentity()
	return agent, client, err
}

func newIdentity() (Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("making a session key: %w", err)
	}
	// The dates are ignored by the pinning check; a certificate needs some.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: "no well-defined expiration date"
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return Identity{}, fmt.Errorf("making a session certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Identity{}, fmt.Errorf("encoding a session key: %w", err)
	}
	return Identity{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
	}, nil
}

// Pin is what the other side is given to recognise this one: the hexadecimal
// SHA-256 of the certificate. It is not secret.
func (i Identity) Pin() (string, error) {
	block, _ := pem.Decode([]byte(i.Certificate))
	if block == nil {
		return "", errors.New("the session's certificate is not PEM")
	}
	return pinOf(block.Bytes), nil
}

func pinOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// config returns the TLS settings, for either side, that present own and accept
// only the peer with the pin.
func config(own Identity, peerPin string) (*tls.Config, error) {
	if len(peerPin) != 2*sha256.Size {
		return nil, fmt.Errorf("the peer's pin has %d characters, not %d", len(peerPin), 2*sha256.Size)
	}
	certificate, err := tls.X509KeyPair([]byte(own.Certificate), []byte(own.Key))
	if err != nil {
		return nil, fmt.Errorf("loading the session's key: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		// Chains and names mean nothing here: VerifyPeerCertificate below
		// compares the one certificate that is right, on both sides.
		InsecureSkipVerify: true, //nolint:gosec // replaced by pinning
		ClientAuth:         tls.RequireAnyClientCert,
		// A resumed session would skip VerifyPeerCertificate.
		SessionTicketsDisabled: true,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) == 0 || subtle.ConstantTimeCompare([]byte(pinOf(raw[0])), []byte(peerPin)) != 1 {
				return ErrPeer
			}
			return nil
		},
	}, nil
}
