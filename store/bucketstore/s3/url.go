package s3

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// ParseURL makes options of a URL as Nix has it for its own S3 stores:
//
//	s3://BUCKET[/FOLDER][?NAME=VALUE&…]
//
// Names are Nix's endpoint (HOST, HOST:PORT or a URL), region, profile, scheme (http or https) and addressing-style
// (auto, path or virtual), and path-style, true or false. Any other, and one given twice, is an error: Nix's own
// settings of a store, such as compression, mean nothing here.
// What would be a password in a URL is refused, and not repeated.
func ParseURL(text string) (*Options, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("s3: not a URL") // url.Error has it all in it
	}
	if u.User != nil {
		return nil, errors.New("s3: URL with a user: credentials come from files or the environment")
	}
	if u.Scheme != "s3" || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("s3: a URL of scheme %q is not s3://BUCKET[/FOLDER][?…]", u.Scheme)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("s3: URL with a malformed query")
	}
	o := &Options{Bucket: u.Host, Folder: strings.Trim(u.Path, "/")}
	var scheme string
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if len(query[name]) != 1 {
			return nil, fmt.Errorf("s3: URL has %q twice", name)
		}
		if name == "scheme" {
			scheme = query.Get(name)
			continue
		}
		if err := o.set(name, query.Get(name)); err != nil {
			return nil, err
		}
	}
	if err := o.setScheme(scheme); err != nil {
		return nil, err
	}
	if _, err := o.withDefaults(); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Options) set(name, value string) error {
	switch name {
	case "endpoint":
		o.Endpoint = value
		if value == "" {
			return nil
		}
		_, _, err := splitEndpoint(value)
		return err
	case "region":
		o.Region = value
		return nil
	case "profile":
		o.Profile = value
		return nil
	case "addressing-style", "path-style":
		return o.setAddressing(name + "=" + value)
	default:
		return fmt.Errorf("s3: URL has a parameter %q; known are endpoint, region, profile, scheme, addressing-style, "+
			"path-style", name)
	}
}

func (o *Options) setAddressing(parameter string) error {
	a, ok := map[string]Addressing{
		"addressing-style=auto": AddressingAuto, "addressing-style=path": AddressingPath,
		"addressing-style=virtual": AddressingHost, "path-style=true": AddressingPath, "path-style=false": AddressingAuto,
	}[parameter]
	if !ok {
		return fmt.Errorf("s3: URL has %q", parameter)
	}
	if o.Addressing != AddressingAuto && o.Addressing != a {
		return errors.New("s3: URL has an addressing-style and a path-style that contradict each other")
	}
	o.Addressing = a
	return nil
}

func (o *Options) setScheme(scheme string) error {
	if scheme == "" {
		return nil
	}
	if scheme != "http" && scheme != "https" {
		return fmt.Errorf("s3: URL has the scheme %q", scheme)
	}
	has, _, ok := strings.Cut(o.Endpoint, "://")
	if ok && has != scheme {
		return errors.New("s3: URL has a scheme and an endpoint that contradict each other")
	}
	if !ok {
		if o.Endpoint == "" {
			o.Endpoint = DefaultEndpoint
		}
		o.Endpoint = scheme + "://" + o.Endpoint
	}
	return nil
}
