package httpcache

import (
	"fmt"
	"sync"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// maxTexts is how many narinfos are kept in each of two generations, at some two KiB each.
const maxTexts = 4 << 10

// narinfoWriter signs narinfos and writes them down, and remembers the outcome, for both take many times as long as the
// rest of an answer. A text depends on the keys and the unsigned narinfo alone, and is kept beside that: what is
// remembered never gets stale. It is safe for concurrent use.
type narinfoWriter struct {
	keys []*signing.SecretKey

	mu         sync.Mutex // guards the generations
	young, old map[narinfo.HashPart]*writtenNarinfo
}

// writtenNarinfo does not change.
type writtenNarinfo struct {
	unsigned *narinfo.Info
	content  *content
}

// sign adds each key's signature, in place of others of the same name; see [narinfo.Info.Sign].
func (w *narinfoWriter) sign(info *narinfo.Info) {
	for _, k := range w.keys {
		info.Sign(k)
	}
}

// text answers with the signed narinfo.
func (w *narinfoWriter) text(info *narinfo.Info) (*content, error) {
	hash := info.StorePath.HashPart()
	if known := w.recall(hash); known != nil && known.unsigned.Equal(info) {
		return new(*known.content), nil
	}
	written := &writtenNarinfo{unsigned: info.Clone()}
	w.sign(info)
	b, err := info.MarshalText()
	if err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	written.content = text(mimeNarinfo, cacheAnHour, b)
	w.mu.Lock()
	w.put(hash, written)
	w.mu.Unlock()
	return new(*written.content), nil
}

func (w *narinfoWriter) recall(hash narinfo.HashPart) *writtenNarinfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.young[hash]; known != nil {
		return known
	}
	known := w.old[hash]
	if known != nil {
		w.put(hash, known)
	}
	return known
}

// put stores into the young generation, which becomes the old one when it is full. The caller holds mu.
func (w *narinfoWriter) put(hash narinfo.HashPart, written *writtenNarinfo) {
	if w.young == nil || len(w.young) >= maxTexts {
		w.young, w.old = make(map[narinfo.HashPart]*writtenNarinfo), w.young
	}
	w.young[hash] = written
}
