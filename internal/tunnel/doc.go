// Package tunnel carries many streams between kubedelve and kubedelve-agent
// over one byte stream that nobody else can use.
//
// Both ends are pinned: [NewPair] makes a key pair for each side when a debug
// session begins, and each side accepts exactly the other's certificate. There
// is no certificate authority, no name and no expiry to get wrong; who holds
// the session's key may talk to the session's agent, and nobody else. The
// connection is TLS 1.3 (RFC 8446) below a yamux session
// (github.com/hashicorp/yamux, spec.md).
//
// The agent's port speaks one thing before TLS: an HTTP/1.1 upgrade (RFC 9110,
// section 7.8) with the token [Protocol]. That is what lets the API server's
// pods/proxy subresource carry the tunnel, since it dials the pod itself and
// passes upgraded connections through untouched. Any other request is answered
// with 404, and what is no request is closed. Who has not proved the key costs one
// of 32 places for 15 s at most, and the oldest makes place for the next.
//
// The package does not know where the byte stream comes from (pods/proxy, exec,
// a unix socket, a direct connection); its callers bring one.
//
// Goroutines: those of the yamux session and keepAlive, which end with the session;
// one per stream in [Session.Serve]; one per connection in [Listen], which waits
// for all of them.
//
// Architecture Invariant: nothing that is not pinned to the session's keys gets
// past the TLS handshake, and no stream exists before it.
package tunnel
