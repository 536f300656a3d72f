package narinfo_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// full has every field, in canonical form.
const full = `StorePath: /nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12
URL: nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz
Compression: xz
FileHash: sha256:1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3
FileSize: 50264
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 226560
References: 3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.37-8 7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12
Deriver: 1cdg5pxp3slvanbvvwn8l2lrylqvswxv-hello-2.12.drv
System: x86_64-linux
Sig: cache.example.org-1:bm90IGEgc2lnbmF0dXJl
Sig: other-1:bm90IGEgc2lnbmF0dXJl
CA: fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
Zebra: an unknown field
Alpha: another:  one, 
Alpha: again
`

// minimal has what must be there.
const minimal = `StorePath: /nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12
URL: nar/x.nar
NarHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
NarSize: 1
References: 
`

func parse(t testing.TB, text string) *narinfo.Info {
	t.Helper()
	info, err := narinfo.Parse([]byte(text))
	require.NoError(t, err, "%s", text)
	return info
}

func format(t testing.TB, info *narinfo.Info) string {
	t.Helper()
	b, err := info.MarshalText()
	require.NoError(t, err)
	return string(b)
}

func TestParseFull(t *testing.T) {
	info := parse(t, full)
	hash, err := narinfo.ParseHash("sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73")
	require.NoError(t, err)
	file, err := narinfo.ParseHash("sha256:1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3")
	require.NoError(t, err)
	require.Equal(t, &narinfo.Info{
		StorePath:   "/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12",
		URL:         "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
		Compression: "xz",
		FileHash:    file,
		FileSize:    50264,
		NarHash:     hash,
		NarSize:     226560,
		References: []narinfo.StorePath{
			"/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.37-8",
			"/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12",
		},
		Deriver:    "/nix/store/1cdg5pxp3slvanbvvwn8l2lrylqvswxv-hello-2.12.drv",
		System:     "x86_64-linux",
		Signatures: []signing.Signature{"cache.example.org-1:bm90IGEgc2lnbmF0dXJl", "other-1:bm90IGEgc2lnbmF0dXJl"},
		CA:         "fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
		Extra:      []narinfo.Field{{"Zebra", "an unknown field"}, {"Alpha", "another:  one, "}, {"Alpha", "again"}},
	}, info)
	require.Equal(t, "1;/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12;"+
		"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73;226560;"+
		"/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-glibc-2.37-8,"+
		"/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12", string(info.Fingerprint()))
}

func TestCanonicalTextSurvives(t *testing.T) {
	for _, text := range []string{full, minimal, strings.ReplaceAll(full, "/nix/store", "/var/lib/other store/s")} {
		require.Equal(t, text, format(t, parse(t, text)))
	}
}

func TestParseAccepts(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unsorted references": {
			"References: ",
			"References: 7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-b  3n58xw4373jp0ljirf06d8077j15pc4j-a ",
			"References: 3n58xw4373jp0ljirf06d8077j15pc4j-a 7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-b",
		},
		"repeated references": {
			"References: ",
			"References: 3n58xw4373jp0ljirf06d8077j15pc4j-a 3n58xw4373jp0ljirf06d8077j15pc4j-a",
			"References: 3n58xw4373jp0ljirf06d8077j15pc4j-a",
		},
		"no references line": {"References: \n", "", "References: \n"},
		"unknown deriver":    {"References: \n", "References: \nDeriver: unknown-deriver\n", "References: \n"},
		"empty CA":           {"References: \n", "References: \nCA: \n", "References: \n"},
		"empty System":       {"References: \n", "References: \nSystem: \n", "References: \n"},
		"empty Compression":  {"References: \n", "Compression: \nReferences: \n", "References: \n"},
		"FileSize 0":         {"References: \n", "References: \nFileSize: 0\n", "References: \n"},
		"base 16": {
			"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
			"sha256:e330259c0ece09d1a0dcce51722b93bb89c5e205f46d3ab4b1a2f49b3b59b558",
			"sha256:1cdnb4xsrxd2p6s3lvlz0mj2b2f7jf9b4l9pvk8x1jp71p7jlcfh",
		},
		"SRI": {
			"sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
			"sha256-4zAlnA7OCdGg3M5Rciuzu4nF4gX0bTq0saL0mztZtVg=",
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := format(t, parse(t, strings.Replace(minimal, c.old, c.new, 1)))
			if strings.HasPrefix(name, "base") || name == "SRI" {
				require.NotContains(t, got, c.new, "hashes are written in base 32")
				require.Equal(t, got, format(t, parse(t, got)))
				return
			}
			require.Equal(t, strings.Replace(minimal, c.old, c.want, 1), got)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const path = "7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12"
	for name, c := range map[string]struct{ text, want string }{
		"empty":                  {"", "no StorePath"},
		"no newline at end":      {strings.TrimSuffix(minimal, " \n"), "line 5: no newline at the end"},
		"no StorePath":           {drop(minimal, "StorePath"), "no StorePath"},
		"no URL":                 {drop(minimal, "URL"), "no URL"},
		"no NarHash":             {drop(minimal, "NarHash"), "no NarHash of type sha256"},
		"no NarSize":             {drop(minimal, "NarSize"), "no NarSize above 0"},
		"NarSize 0":              {edit(minimal, "NarSize", "0"), "no NarSize above 0"},
		"NarSize +1":             {edit(minimal, "NarSize", "+1"), `line 4: NarSize "+1": no size`},
		"NarSize -1":             {edit(minimal, "NarSize", "-1"), "no size"},
		"NarSize -0":             {edit(minimal, "NarSize", "-0"), "no size"},
		"NarSize 007":            {edit(minimal, "NarSize", "007"), "no size"},
		"NarSize 2^63":           {edit(minimal, "NarSize", "9223372036854775808"), "no size"},
		"NarSize words":          {edit(minimal, "NarSize", "1 2"), "no size"},
		"NarHash md5":            {edit(minimal, "NarHash", "md5:3y8bwfr609h3lh9ch0izcqq7fl"), "no NarHash of type sha256"},
		"NarHash without type":   {edit(minimal, "NarHash", "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"), "neither TYPE:DIGEST"},
		"empty URL":              {edit(minimal, "URL", ""), `line 2: URL "": empty`},
		"URL with space":         {edit(minimal, "URL", "a b"), "a space or a control character"},
		"URL with return":        {edit(minimal, "URL", "a\r"), "a space or a control character"},
		"no space after colon":   {strings.Replace(minimal, "URL: ", "URL:", 1), "is not of the form NAME: VALUE"},
		"no space, nothing more": {strings.Replace(minimal, "References: ", "References:", 1), "is not of the form NAME: VALUE"},
		"empty line":             {minimal + "\n", `line 6: "" is not of the form`},
		"line without colon":     {minimal + "x\n", "is not of the form"},
		"colon in name":          {minimal + "a:b: c\n", "is not of the form"},
		"empty name":             {minimal + ": c\n", "is no field name"},
		"nul in name":            {minimal + "a\x00: c\n", "is no field name"},
		"two StorePaths":         {minimal + "StorePath: /nix/store/" + path + "\n", "line 6: StorePath comes twice"},
		"two URLs":               {minimal + "URL: x\n", "URL comes twice"},
		"two NarSizes":           {minimal + "NarSize: 1\n", "NarSize comes twice"},
		"two References":         {minimal + "References: \n", "References comes twice"},
		"two Derivers":           {minimal + "Deriver: unknown-deriver\nDeriver: unknown-deriver\n", "Deriver comes twice"},
		"two CAs":                {minimal + "CA: \nCA: \n", "CA comes twice"},
		"path is a base name":    {edit(minimal, "StorePath", path), "the directory is not absolute"},
		"path is unclean":        {edit(minimal, "StorePath", "/nix//store/"+path), "the directory is not clean"},
		"path climbs":            {edit(minimal, "StorePath", "/nix/store/../"+path), "the directory is not clean"},
		"path below a path":      {edit(minimal, "StorePath", "/nix/store/"+path+"/bin"), "no 32 characters and a dash"},
		"reference is whole":     {edit(minimal, "References", "/nix/store/"+path), "no 32 characters and a dash"},
		"reference climbs":       {edit(minimal, "References", "../"+path), "no 32 characters and a dash"},
		"reference after tab":    {edit(minimal, "References", path+"\t"+path), "is not allowed in a name"},
		"deriver empty":          {minimal + "Deriver: \n", `Deriver "": no 32 characters and a dash`},
		"deriver is whole":       {minimal + "Deriver: /nix/store/" + path + "\n", "no 32 characters and a dash"},
		"Sig without name":       {minimal + "Sig: :AAAA\n", "not of the form NAME:SIGNATURE"},
		"Sig without colon":      {minimal + "Sig: AAAA\n", "not of the form NAME:SIGNATURE"},
		"Sig with space":         {minimal + "Sig: a:b c\n", "a space or a control character"},
		"CA nonsense":            {minimal + "CA: nonsense\n", "content address"},
		"too large":              {minimal + "X: " + strings.Repeat("x", narinfo.MaxSize) + "\n", "more than 16777216"},
	} {
		t.Run(name, func(t *testing.T) {
			info, err := narinfo.Parse([]byte(c.text))
			require.ErrorContains(t, err, c.want)
			require.True(t, strings.HasPrefix(err.Error(), "narinfo: "), err.Error())
			require.Less(t, len(err.Error()), 1000, "long input is not quoted in full")
			require.Nil(t, info)
		})
	}
}

// edit replaces the value of a field, drop removes its line.
func edit(text, name, value string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+": ") {
			line = name + ": " + value + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

func drop(text, name string) string {
	return strings.Replace(edit(text, name, "\x00"), name+": \x00\n", "", 1)
}

func TestTruncatedTextIsRefusedOrShorter(t *testing.T) {
	for n := range full {
		info, err := narinfo.Parse([]byte(full[:n]))
		if err == nil {
			require.Equal(t, full[:n], strings.Replace(format(t, info), "References: \n", "", 1)[:n], "cut to %d bytes", n)
			require.Equal(t, byte('\n'), full[n-1])
		}
	}
}

func TestFormatRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*narinfo.Info)
		want  string
	}{
		"no StorePath":      {func(i *narinfo.Info) { i.StorePath = "" }, "no StorePath"},
		"no URL":            {func(i *narinfo.Info) { i.URL = "" }, "no URL"},
		"no NarHash":        {func(i *narinfo.Info) { i.NarHash = narinfo.Hash{} }, "no NarHash"},
		"NarSize 0":         {func(i *narinfo.Info) { i.NarSize = 0 }, "no NarSize"},
		"negative FileSize": {func(i *narinfo.Info) { i.FileSize = -1 }, "FileSize -1"},
		"converted path":    {func(i *narinfo.Info) { i.StorePath = "/nix/store/x\nURL: y" }, "no 32 characters"},
		"URL breaks line":   {func(i *narinfo.Info) { i.URL = "x\nSig: y" }, `URL "x\nSig: y"`},
		"sig breaks line":   {func(i *narinfo.Info) { i.Signatures[0] = "a:b\nCA: x" }, "Sig "},
		"CA not canonical":  {func(i *narinfo.Info) { i.CA = "fixed:x" }, "CA "},
		"unsorted":          {func(i *narinfo.Info) { i.References[0] = i.References[1] }, "not sorted"},
		"foreign reference": {func(i *narinfo.Info) { i.References[0] = "/a/3n58xw4373jp0ljirf06d8077j15pc4j-x" }, `not in "/nix/store"`},
		"foreign deriver":   {func(i *narinfo.Info) { i.Deriver = "/a/3n58xw4373jp0ljirf06d8077j15pc4j-x" }, `not in "/nix/store"`},
		"known extra":       {func(i *narinfo.Info) { i.Extra[0].Name = "Sig" }, "would not be read back"},
		"extra breaks line": {func(i *narinfo.Info) { i.Extra[0].Value = "a\nb" }, "would not be read back"},
		"extra with colon":  {func(i *narinfo.Info) { i.Extra[0].Name = "a: b" }, "would not be read back"},
		"too large":         {func(i *narinfo.Info) { i.Extra[0].Value = strings.Repeat("x", narinfo.MaxSize) }, "more than 16777216"},
	} {
		t.Run(name, func(t *testing.T) {
			info := parse(t, full)
			c.spoil(info)
			b, err := info.AppendText([]byte("before"))
			require.ErrorContains(t, err, c.want)
			require.Equal(t, "before", string(b))
		})
	}
}

func TestAppendText(t *testing.T) {
	b, err := parse(t, full).AppendText([]byte("before"))
	require.NoError(t, err)
	require.Equal(t, "before"+full, string(b))
}

func TestCloneIsDeep(t *testing.T) {
	info, untouched := parse(t, full), parse(t, full)
	c := info.Clone()
	require.Equal(t, info, c)
	require.NotSame(t, info, c)
	c.StorePath, c.References[0], c.Signatures[0], c.Extra[0].Value = "x", "x", "x", "x"
	require.Equal(t, untouched, info)
	require.Equal(t, reflect.TypeFor[narinfo.Info]().NumField(), 13, "a new field may need cloning")
}

func TestSignAndVerifiedBy(t *testing.T) {
	a, err := signing.GenerateKey("a-1")
	require.NoError(t, err)
	z, err := signing.GenerateKey("z-1")
	require.NoError(t, err)
	ring := signing.Keyring{a.Public(), z.Public()}

	info := parse(t, full)
	_, ok := info.VerifiedBy(ring)
	require.False(t, ok)
	info.Sign(z)
	by, ok := info.VerifiedBy(ring)
	require.True(t, ok)
	require.Equal(t, z.Public(), by)
	info.Sign(a)
	info.Sign(a)
	require.Len(t, info.Signatures, 4, "signing again replaces")
	require.IsIncreasing(t, info.Signatures)
	info = parse(t, format(t, info))
	by, ok = info.VerifiedBy(ring)
	require.True(t, ok)
	require.Equal(t, a.Public(), by)

	for name, spoil := range map[string]func(*narinfo.Info){
		"StorePath":  func(i *narinfo.Info) { i.StorePath += "x" },
		"NarHash":    func(i *narinfo.Info) { i.NarHash = i.FileHash },
		"NarSize":    func(i *narinfo.Info) { i.NarSize++ },
		"References": func(i *narinfo.Info) { i.References = i.References[1:] },
	} {
		c := info.Clone()
		spoil(c)
		_, ok := c.VerifiedBy(ring)
		require.False(t, ok, name)
	}
	c := info.Clone()
	c.URL, c.Compression, c.FileHash, c.FileSize, c.Deriver, c.CA, c.Extra = "other", "", narinfo.Hash{}, 0, "", "", nil
	_, ok = c.VerifiedBy(ring)
	require.True(t, ok, "the rest is not signed")
}

// manyReferences is a narinfo with n references.
func manyReferences(n int) string {
	var refs strings.Builder
	for i := range n {
		fmt.Fprintf(&refs, " %032d-package-%d", i, i)
	}
	return edit(minimal, "References", refs.String()[min(1, refs.Len()):])
}

func TestParseAllocatesLittle(t *testing.T) {
	for _, n := range []int{0, 10, 1000} {
		text := []byte(manyReferences(n))
		var info *narinfo.Info
		r := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				info, _ = narinfo.Parse(text)
			}
		})
		require.Len(t, info.References, n)
		// What is kept: a copy of the text, the Info, and for each reference a string header and the whole path.
		kept := len(text) + int(reflect.TypeFor[narinfo.Info]().Size())
		for _, p := range info.References {
			kept += len(p) + int(reflect.TypeFor[narinfo.StorePath]().Size())
		}
		require.Less(t, r.AllocedBytesPerOp(), int64(kept+kept/4+300), "%d references: size classes round up", n)
		require.LessOrEqual(t, r.AllocsPerOp(), int64(5))
	}
}

func TestEqualSeesEachField(t *testing.T) {
	info, same := parse(t, full), parse(t, full)
	require.True(t, info.Equal(same))
	for n := range reflect.TypeFor[narinfo.Info]().NumField() {
		other := parse(t, full)
		reflect.ValueOf(other).Elem().Field(n).SetZero()
		require.False(t, info.Equal(other), reflect.TypeFor[narinfo.Info]().Field(n).Name)
		require.False(t, other.Equal(info), reflect.TypeFor[narinfo.Info]().Field(n).Name)
	}
}
