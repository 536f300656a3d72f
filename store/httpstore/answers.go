package httpstore

import (
	"container/list"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// known is what the cache said of a hash part.
type known struct {
	hash           narinfo.HashPart
	info           *narinfo.Info // nil: absent
	why            error         // of absence
	etag, modified string        // of the narinfo
	checked        time.Time     // when the cache said so last
	size           int64         // of the narinfo's text
}

// overhead is what an entry takes besides its text, roughly.
const overhead = 512

func (k *known) cost() int64 { return overhead + 2*k.size }

// answers keeps what was used last. It is not safe for concurrent use.
type answers struct {
	limit  int64
	used   int64
	byHash map[narinfo.HashPart]*list.Element // of *known
	recent list.List                          // the one used last in front
}

// find returns what is known. It is not to be changed.
func (a *answers) find(hash narinfo.HashPart) *known {
	e := a.byHash[hash]
	if e == nil {
		return nil
	}
	a.recent.MoveToFront(e)
	return e.Value.(*known)
}

func (a *answers) add(k *known) {
	a.remove(k.hash)
	if k.cost() > a.limit {
		return
	}
	if a.byHash == nil {
		a.byHash = make(map[narinfo.HashPart]*list.Element)
	}
	a.byHash[k.hash] = a.recent.PushFront(k)
	for a.used += k.cost(); a.used > a.limit; {
		a.remove(a.recent.Back().Value.(*known).hash)
	}
}

func (a *answers) remove(hash narinfo.HashPart) {
	e := a.byHash[hash]
	if e == nil {
		return
	}
	delete(a.byHash, hash)
	a.used -= a.recent.Remove(e).(*known).cost()
}
