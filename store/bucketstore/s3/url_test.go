package s3_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]s3.Options{
		"s3://example-cache":                          {Bucket: "example-cache"},
		"s3://example-cache/":                         {Bucket: "example-cache"},
		"s3://example-cache/a/b/?region=eu-central-1": {Bucket: "example-cache", Folder: "a/b", Region: "eu-central-1"},
		"s3://example-cache?endpoint=garage.example.com:3900&region=garage&profile=cache": {
			Bucket: "example-cache", Endpoint: "garage.example.com:3900", Region: "garage", Profile: "cache",
		},
		"s3://example-cache?endpoint=127.0.0.1:9000&scheme=http&path-style=true": {
			Bucket: "example-cache", Endpoint: "http://127.0.0.1:9000", Addressing: s3.AddressingPath,
		},
		"s3://example-cache?endpoint=http://127.0.0.1:9000&scheme=http&path-style=false": {
			Bucket: "example-cache", Endpoint: "http://127.0.0.1:9000",
		},
		"s3://example-cache?scheme=https&addressing-style=virtual": {
			Bucket: "example-cache", Endpoint: "https://s3.amazonaws.com", Addressing: s3.AddressingHost,
		},
		"s3://example-cache?addressing-style=path&path-style=true": {Bucket: "example-cache", Addressing: s3.AddressingPath},
	} {
		got, err := s3.ParseURL(text)
		require.NoError(t, err, text)
		require.Equal(t, &want, got, text)
	}
}

func TestParseURLRefuses(t *testing.T) {
	for _, text := range []string{
		"", "s3://", "s3:bucket", "http://example-cache", "s3://example-cache#x", "s3://a", "s3://example-cache/../x",
		"s3://example-cache?compression=zstd", "s3://example-cache?secret-key=/hunter2", "s3://example-cache?region=a&region=b",
		"s3://example-cache?scheme=ftp", "s3://example-cache?scheme=https&endpoint=http://example.com",
		"s3://example-cache?path-style=yes", "s3://example-cache?path-style=true&addressing-style=virtual",
		"s3://example-cache?endpoint=ftp://example.com", "s3://example-cache?endpoint=http://example.com/path",
		"s3://key:hunter2@example-cache", "s3://example-cache?endpoint=http://key:hunter2@example.com",
		"s3://key:hunter2@example%zz", "s3://example-cache?%zzhunter2", "s3://example-cache?endpoint=http://key:hunter2@exa%zzmple",
	} {
		o, err := s3.ParseURL(text)
		require.Error(t, err, text)
		require.Nil(t, o, text)
		require.NotContains(t, err.Error(), "hunter2", "what may be a secret is not repeated")
	}
}

func TestOpenRefusesOptionsThatContradict(t *testing.T) {
	for name, o := range map[string]*s3.Options{
		"nil":         nil,
		"no bucket":   {},
		"folder":      {Bucket: "example-cache", Folder: "a/../b"},
		"anonymous":   {Bucket: "example-cache", Anonymous: true, Profile: "x"},
		"part size":   {Bucket: "example-cache", PartSize: s3.MinPartSize - 1},
		"memory":      {Bucket: "example-cache", Memory: s3.MinPartSize},
		"addressing":  {Bucket: "example-cache", Addressing: 17},
		"endpoint":    {Bucket: "example-cache", Endpoint: "http://example.com/path"},
		"user":        {Bucket: "example-cache", Endpoint: "http://key:hunter2@example.com"},
		"no endpoint": {Bucket: "example-cache", Endpoint: "http://"},
	} {
		_, err := s3.Open(t.Context(), o)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hunter2", name)
	}
}

func ExampleParseURL() {
	o, err := s3.ParseURL("s3://example-cache/team?endpoint=garage.example.com:3900&region=garage&path-style=true")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(o.Bucket, o.Folder, o.Endpoint, o.Region, o.Addressing == s3.AddressingPath)
	_, err = s3.ParseURL("s3://example-cache?compression=zstd")
	fmt.Println(err)
	// Output:
	// example-cache team garage.example.com:3900 garage true
	// s3: URL has a parameter "compression"; known are endpoint, region, profile, scheme, addressing-style, path-style
}
