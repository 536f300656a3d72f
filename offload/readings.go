package offload

import "time"

// Readings are what a machine measured of itself. Nil is unknown, and so the zero value knows nothing.
type Readings struct {
	// At is when they were taken, by the clock of who asks; the zero time makes them stale.
	At time.Time `json:"at"`

	// CPU, Memory and IO are how much tasks waited in the last ten seconds.
	CPU    Pressure `json:"cpu"`
	Memory Pressure `json:"memory"`
	IO     Pressure `json:"io"`
	// Load1 is the load average of one minute.
	Load1 *float64 `json:"load1,omitempty"`
	// Cores is how many processors are online.
	Cores *int `json:"cores,omitempty"`

	// MemoryTotal and MemoryAvailable are in bytes; what is available can be had without swapping.
	MemoryTotal     *int64 `json:"memory_total,omitempty"`
	MemoryAvailable *int64 `json:"memory_available,omitempty"`
	// SwapTotal and SwapFree are in bytes.
	SwapTotal *int64 `json:"swap_total,omitempty"`
	SwapFree  *int64 `json:"swap_free,omitempty"`

	// Store and Build are the file systems of the store and of the folder that builds work in.
	Store Space `json:"store"`
	Build Space `json:"build"`

	// Builds is how many builds run there, whoever asked for them.
	Builds *int `json:"builds,omitempty"`

	// OnBattery says that no mains feed the machine; one without a battery is not on it.
	OnBattery *bool `json:"on_battery,omitempty"`
	// BatteryPercent is what is left in the emptiest battery.
	BatteryPercent *float64 `json:"battery_percent,omitempty"`

	// NixVersion is what Nix there calls itself, such as "2.26.3"; empty is unknown.
	NixVersion string `json:"nix_version,omitempty"`
}

// Pressure is a resource's pressure-stall information: percentages of ten seconds.
type Pressure struct {
	// Some is the time in which some task waited, Full that in which all of them did.
	Some *float64 `json:"some,omitempty"`
	Full *float64 `json:"full,omitempty"`
}

// Space is what is left of a file system.
type Space struct {
	// Bytes are free for those who are not root.
	Bytes *int64 `json:"bytes,omitempty"`
	// Inodes are free; file systems that make them as needed have none to tell.
	Inodes *int64 `json:"inodes,omitempty"`
}

// fresh returns the readings without what has changed since, if they are older than is useful:
// how many cores and how much memory there is stays.
func (r *Readings) fresh(now time.Time, useful time.Duration) Readings {
	if !r.At.IsZero() && now.Sub(r.At) <= useful {
		return *r
	}
	return Readings{At: r.At, Cores: r.Cores, MemoryTotal: r.MemoryTotal, SwapTotal: r.SwapTotal, NixVersion: r.NixVersion}
}
