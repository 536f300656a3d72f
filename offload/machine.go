package offload

import (
	"net"
	"net/url"
	"slices"
	"strconv"
)

// Machine is one that builds, as its owner describes it.
type Machine struct {
	// Name is unique among the machines of a list, and what history, leases and records call it.
	Name string `json:"name"`
	// Source is where it is described, "FILE:LINE"; empty if in no file.
	Source string `json:"source,omitempty"`
	// Local is set for the machine that asks. It has no transfers, and Nix itself builds there.
	Local bool `json:"local,omitempty"`

	// Scheme is "ssh" (the serve protocol) or "ssh-ng" (the worker protocol); empty if Local.
	Scheme string `json:"scheme,omitempty"`
	// User is the one to log in as, empty for SSH's own choice.
	User string `json:"user,omitempty"`
	// Host is a name, or an address without brackets. With "localhost" Nix starts RemoteProgram itself, without SSH.
	Host string `json:"host,omitempty"`
	// Port is SSH's; 0 is its own choice.
	Port int `json:"port,omitempty"`
	// Params are the store URI's parameters that have no field here.
	Params map[string]string `json:"params,omitempty"`
	// Identity names the file with the private key, empty for SSH's own choice.
	Identity string `json:"identity,omitempty"`
	// Agent names the socket of an SSH agent; empty for none.
	Agent string `json:"agent,omitempty"`
	// HostKey is the public host key as in known_hosts ("ssh-ed25519 AAAA…"); empty if not pinned here.
	HostKey string `json:"host_key,omitempty"`
	// RemoteProgram is the command that speaks the protocol; empty for nix-store or nix-daemon.
	RemoteProgram []string `json:"remote_program,omitempty"`

	// Systems are the platforms it builds for.
	Systems []string `json:"systems"`
	// Features may be required of it.
	Features []string `json:"features,omitempty"`
	// MandatoryFeatures may be required of it, and it builds nothing that doesn't require each of them.
	MandatoryFeatures []string `json:"mandatory_features,omitempty"`
	// MaxJobs is how many builds run there at once; 0 is none.
	MaxJobs int `json:"max_jobs"`
	// SpeedFactor is the typed speed, used until a speed is learned. 0 is 1.
	SpeedFactor float64 `json:"speed_factor,omitempty"`

	// MemoryLimit is the most memory, in bytes, that our builds there take together; 0 is no limit.
	MemoryLimit int64 `json:"memory_limit,omitempty"`
	// MemoryReserve is memory, in bytes, that is left alone; 0 is the policy's.
	MemoryReserve int64 `json:"memory_reserve,omitempty"`
	// Weight is how welcome the machine is: a cost of 10 s counts as 5 s at weight 2. 0 is 1.
	Weight float64 `json:"weight,omitempty"`
	// Drained machines get no new builds.
	Drained bool `json:"drained,omitempty"`
	// TrustedKeys are the public keys, "name:base64", one of which must have signed what it built; none asks for no signature.
	TrustedKeys []string `json:"trusted_keys,omitempty"`
	// Tags are its owner's words.
	Tags []string `json:"tags,omitempty"`
}

// URI returns the store URI without the parameters that have fields, as Nix shows it; "" for the local machine.
func (m *Machine) URI() string {
	if m.Local {
		return ""
	}
	u := url.URL{Scheme: m.Scheme, Host: m.Address()}
	if m.User != "" {
		u.User = url.User(m.User)
	}
	query := make(url.Values)
	for k, v := range m.Params {
		query.Set(k, v)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// Address returns the host with its port if that is known, an IPv6 address in brackets.
func (m *Machine) Address() string {
	if m.Port != 0 {
		return net.JoinHostPort(m.Host, strconv.Itoa(m.Port))
	}
	if ip := net.ParseIP(m.Host); ip != nil && ip.To4() == nil {
		return "[" + m.Host + "]"
	}
	return m.Host
}

// Builds says whether the machine may build for a system with the features that are required of it, by Nix's rules:
// the system is one of its own, or "builtin"; it has each required feature; and each of its mandatory ones is required.
// The empty Refusal means that it may.
func (m *Machine) Builds(system string, features []string) Refusal {
	if system != "builtin" && !slices.Contains(m.Systems, system) {
		return WrongSystem
	}
	for _, f := range features {
		if !slices.Contains(m.Features, f) && !slices.Contains(m.MandatoryFeatures, f) {
			return LacksFeature
		}
	}
	for _, f := range m.MandatoryFeatures {
		if !slices.Contains(features, f) {
			return MandatoryFeature
		}
	}
	return ""
}

func orDefault[T int | int64 | float64](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}
