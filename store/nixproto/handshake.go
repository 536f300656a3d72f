package nixproto

import (
	"fmt"
)

const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f

	maxHandshake = 64 << 10 // bytes from the daemon
)

// Version is a version of the worker protocol, such as 1.38.
type Version struct{ Major, Minor uint8 }

var (
	minVersion = Version{1, 32}
	maxVersion = Version{1, 38}
)

// String returns MAJOR.MINOR.
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// AtLeast reports whether v is major.minor or later.
func (v Version) AtLeast(major, minor uint8) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// atMost returns the lower of two versions with the same major number.
func (v Version) atMost(most Version) Version {
	if v.Minor > most.Minor {
		return most
	}
	return v
}

// checkMaxVersion checks a configured limit and puts the default in for zero.
func checkMaxVersion(v Version) (Version, error) {
	if v == (Version{}) {
		return maxVersion, nil
	}
	if v.Major != 1 || v.Minor < minVersion.Minor || v.Minor > maxVersion.Minor {
		return v, fmt.Errorf("nixproto: MaxVersion is %v, not within %v and %v", v, minVersion, maxVersion)
	}
	return v, nil
}

func (v Version) word() uint64 { return uint64(v.Major)<<8 | uint64(v.Minor) }

// Trust is what a daemon thinks of its client.
type Trust uint8

const (
	TrustUnknown Trust = iota // the daemon does not say, as all before 1.35
	Trusted                   // may change settings, and add paths without signatures
	NotTrusted                // may ask, and add paths with signatures that the daemon trusts
)

// Peer is what the other side says of itself when a connection begins.
type Peer struct {
	Offered    Version  // what it can speak
	Version    Version  // what this connection speaks: the lower of that and ours
	Features   []string // as it offers them; this package uses none
	NixVersion string   // for people, "2.34.8"; "" where it is not said, as below 1.33
	Trust      Trust
}

// handshake is the client's side of a connection's beginning.
func handshake(e *encoder, d *decoder, o *Options) (*Peer, error) {
	d.limit(maxHandshake)
	e.uint64(clientMagic)
	e.uint64(o.MaxVersion.word())
	if err := e.flush(); err != nil {
		return nil, err
	}
	p := new(Peer)
	if magic := d.uint64(); d.err == nil && magic != serverMagic {
		d.fail("magic number %#x is not a Nix daemon's", magic)
	}
	if err := p.negotiate(d, o.MaxVersion); err != nil {
		return nil, err
	}
	if p.Version.AtLeast(1, 38) {
		e.strings(nil)
		if err := e.flush(); err != nil {
			return nil, err
		}
		p.Features = d.strings()
	}
	e.uint64(0) // no processor affinity
	e.uint64(0) // no space reserved
	if err := e.flush(); err != nil {
		return nil, err
	}
	if p.Version.AtLeast(1, 33) {
		p.NixVersion = d.string()
	}
	if p.Version.AtLeast(1, 35) {
		p.Trust = decodeTrust(d)
	}
	if d.err != nil {
		return nil, d.err
	}
	return p, drain(d, o.OnEvent)
}

func (p *Peer) negotiate(d *decoder, most Version) error {
	word := d.uint64()
	if d.err != nil {
		return d.err
	}
	if word > 0xffff {
		d.fail("%#x is no version", word)
		return d.err
	}
	p.Offered = Version{uint8(word >> 8), uint8(word)}
	if p.Offered.Major != minVersion.Major || p.Offered.Minor < minVersion.Minor {
		d.err = fmt.Errorf("%w: daemon speaks %v, need %v", ErrVersion, p.Offered, minVersion)
		return d.err
	}
	p.Version = p.Offered.atMost(most)
	return nil
}

func decodeTrust(d *decoder) Trust {
	n := d.uint64()
	if n > uint64(NotTrusted) {
		d.fail("trust %d is not known", n)
		return TrustUnknown
	}
	return Trust(n)
}
