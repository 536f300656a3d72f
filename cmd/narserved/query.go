package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// query answers one kind of question about one argument.
type query func(ctx context.Context, s *source, argument string) (answers, error)

// answers are paths, or all that is known of them.
type answers struct {
	paths []narinfo.StorePath
	infos []*narinfo.Info
}

func queries() map[string]query {
	return map[string]query{
		"info": queryInfo, "path": queryInfo,
		"references": queryReferences,
		"referrers":  queryReferrers,
		"closure":    queryClosure,
		"deriver":    queryDeriver,
		"search":     querySearch,
	}
}

// runQuery answers for each argument in turn and prints each path once.
func (p *process) runQuery(ctx context.Context, cmd *command, args []string) error {
	c := defaultConfig()
	set := cmd.flagSet()
	set.StringVar(&c.Store, "store", c.Store, "`STORE` to ask, as in narserved serve")
	asJSON := set.Bool("json", false, "print JSON: an array of paths or, of info, of objects")
	words, err := p.parse(cmd, set, args)
	if err != nil {
		return err
	}
	if len(words) < 2 {
		return cmd.misuse("takes a KIND and at least one PATH")
	}
	ask, ok := queries()[words[0]]
	if !ok {
		return cmd.misuse(fmt.Sprintf("unknown kind %q", words[0]))
	}
	s, err := c.openSource(ctx, p.env, slog.New(slog.DiscardHandler), "")
	if err != nil {
		return err
	}
	defer s.Close()
	all, err := askAll(ctx, s, ask, words[1:])
	if err != nil {
		return err
	}
	if *asJSON {
		return p.printJSON(all)
	}
	return p.printText(all)
}

func askAll(ctx context.Context, s *source, ask query, arguments []string) (all answers, err error) {
	seen := make(map[narinfo.StorePath]bool)
	for _, argument := range arguments {
		found, err := ask(ctx, s, argument)
		if err != nil {
			return all, err
		}
		for _, path := range found.paths {
			if !seen[path] {
				seen[path], all.paths = true, append(all.paths, path)
			}
		}
		all.infos = append(all.infos, found.infos...)
	}
	return all, nil
}

func queryInfo(ctx context.Context, s *source, argument string) (answers, error) {
	info, err := s.find(ctx, argument)
	return answers{infos: []*narinfo.Info{info}}, err
}

func queryReferences(ctx context.Context, s *source, argument string) (answers, error) {
	info, err := s.find(ctx, argument)
	if err != nil {
		return answers{}, err
	}
	return answers{paths: info.References}, nil
}

func queryReferrers(ctx context.Context, s *source, argument string) (a answers, err error) {
	info, err := s.find(ctx, argument)
	if err != nil {
		return a, err
	}
	for path, err := range store.FindReferrers(ctx, s.Store, info.StorePath) {
		if err != nil {
			return a, err
		}
		a.paths = append(a.paths, path)
	}
	return a, nil
}

func queryClosure(ctx context.Context, s *source, argument string) (a answers, err error) {
	info, err := s.find(ctx, argument)
	if err != nil {
		return a, err
	}
	closure, err := store.Closure(ctx, s.Store, info.StorePath)
	for _, member := range closure {
		a.paths = append(a.paths, member.StorePath)
	}
	return a, err
}

func queryDeriver(ctx context.Context, s *source, argument string) (answers, error) {
	info, err := s.find(ctx, argument)
	if err != nil {
		return answers{}, err
	}
	if info.Deriver == "" {
		return answers{}, fmt.Errorf("query: the deriver of %s is not known", info.StorePath)
	}
	return answers{paths: []narinfo.StorePath{info.Deriver}}, nil
}

func querySearch(ctx context.Context, s *source, argument string) (answers, error) {
	paths, err := store.Search(ctx, s.Store, argument, 0)
	return answers{paths: paths}, err
}

// find looks an argument up: a hash part, a store path, a file inside one, or a symlink to one.
func (s *source) find(ctx context.Context, argument string) (*narinfo.Info, error) {
	hash, err := s.hashPart(argument)
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, hash)
	if errors.Is(err, store.ErrCorrupt) {
		return nil, hint(fmt.Errorf("%q is damaged: %w", argument, err), "copy it into the store again, or remove it")
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, hint(fmt.Errorf("%q is not in the store", argument), "narserved query search NAME finds paths")
	}
	return info, err
}

func (s *source) hashPart(argument string) (narinfo.HashPart, error) {
	if hash, err := narinfo.ParseHashPart(argument); err == nil {
		return hash, nil
	}
	path, err := s.storePath(argument)
	if err != nil {
		return "", usageError{hint(fmt.Errorf("%q is no store path and no hash part", argument),
			"give a path below "+s.StoreDir()+", or the 32 characters that begin its name")}
	}
	return path.HashPart(), nil
}

// maxLinks is how many symlinks are followed one after the other, as the kernel does.
const maxLinks = 40

// storePath finds the store path that a file lies in, or that a symlink to it enters first.
// What is in the store need not exist on this disk: the store may be a bucket, or below another root.
func (s *source) storePath(file string) (narinfo.StorePath, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		if path, err := s.inStore(file); err == nil {
			return path, nil
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(file))
		if err != nil {
			return "", err
		}
		if path, err := s.inStore(filepath.Join(dir, filepath.Base(file))); err == nil {
			return path, nil
		}
		target, err := os.Readlink(file)
		if err != nil {
			return "", fmt.Errorf("%q is not below %s and no symlink", file, s.StoreDir())
		}
		if file = target; !filepath.IsAbs(target) {
			file = filepath.Join(dir, target)
		}
	}
	return "", fmt.Errorf("%q: too many symlinks", file)
}

func (s *source) inStore(file string) (narinfo.StorePath, error) {
	below, ok := strings.CutPrefix(filepath.Clean(file), s.StoreDir()+"/")
	if !ok {
		return "", fmt.Errorf("%q is not below %s", file, s.StoreDir())
	}
	base, _, _ := strings.Cut(below, "/")
	return narinfo.NewStorePath(s.StoreDir(), base)
}

// printText prints a path a line, or what is known of paths with an empty line between two.
func (p *process) printText(all answers) error {
	var text bytes.Buffer
	for _, path := range all.paths {
		fmt.Fprintln(&text, path)
	}
	for i, info := range all.infos {
		if i > 0 {
			fmt.Fprintln(&text)
		}
		writeInfo(&text, info)
	}
	_, err := p.stdout.Write(text.Bytes())
	return err
}

// writeInfo writes lines named like a narinfo's. What is not known has no line; references are whole paths.
func writeInfo(text *bytes.Buffer, info *narinfo.Info) {
	fmt.Fprintf(text, "StorePath: %s\nNarHash: %s\nNarSize: %d\n", info.StorePath, info.NarHash, info.NarSize)
	for _, reference := range info.References {
		fmt.Fprintln(text, "Reference:", reference)
	}
	if info.Deriver != "" {
		fmt.Fprintln(text, "Deriver:", info.Deriver)
	}
	for _, signature := range info.Signatures {
		fmt.Fprintln(text, "Sig:", signature)
	}
	if info.CA != "" {
		fmt.Fprintln(text, "CA:", info.CA)
	}
}

// infoJSON has the names of `nix path-info --json`.
type infoJSON struct {
	Path       narinfo.StorePath   `json:"path"`
	NarHash    string              `json:"narHash"`
	NarSize    int64               `json:"narSize"`
	References []narinfo.StorePath `json:"references"`
	Deriver    *narinfo.StorePath  `json:"deriver"` // null if it is not known
	Signatures []string            `json:"signatures"`
	CA         *string             `json:"ca"` // null if the path is not content-addressed
}

func (p *process) printJSON(all answers) error {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if all.infos == nil {
		return encoder.Encode(append([]narinfo.StorePath{}, all.paths...))
	}
	var objects []infoJSON
	for _, info := range all.infos {
		objects = append(objects, newInfoJSON(info))
	}
	return encoder.Encode(objects)
}

func newInfoJSON(info *narinfo.Info) infoJSON {
	object := infoJSON{
		Path: info.StorePath, NarHash: info.NarHash.SRI(), NarSize: info.NarSize,
		References: append([]narinfo.StorePath{}, info.References...), Signatures: []string{},
	}
	if info.Deriver != "" {
		object.Deriver = &info.Deriver
	}
	for _, s := range info.Signatures {
		object.Signatures = append(object.Signatures, string(s))
	}
	if info.CA != "" {
		object.CA = new(string(info.CA))
	}
	return object
}
