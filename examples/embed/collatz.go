// collatz.go: Tidepool from Go, by cgo. A binding in some hundred lines, and a program that uses it
// from several goroutines at once: with a function in Lua, one in Go, a failure and a timeout.
//
//	PKG_CONFIG_PATH=/usr/local/lib/pkgconfig LD_LIBRARY_PATH=/usr/local/lib go run collatz.go
//
// prints: below 30000 the longest way to 1 has 307 steps, from 26623
// prints: below 60000 the longest way to 1 has 339 steps, from 52527
// prints: below 90000 the longest way to 1 has 350 steps, from 77031
// prints: in Go the same: true
// prints: failed: collatz:4: a whole number above 0, please (index 2)
// prints: nothing within 20ms; later: [done]
package main

/*
#cgo pkg-config: tidepool
#include <stdlib.h>
#include <tidepool.h>

// What cgo cannot say: the members of a union, and a function of Go as a callback.
static int boolean_of(const tp_value *v) { return v->as.boolean; }
static double number_of(const tp_value *v) { return v->as.number; }
static const char *bytes_of(const tp_value *v) { return v->as.bytes; }
int goCall(void *user, tp_call *call, tp_value *in, size_t n);
static int call_go(void *user, tp_call *call, const tp_value *in, size_t n)
{
    return goCall(user, call, (tp_value *)in, n);
}
static int function_from_go(tp_function **out, tp_host *host, const char *name, uintptr_t which,
                            tp_error *err)
{
    return tp_function_from_c(out, host, name, call_go, (void *)which, NULL, err);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/cgo"
	"sync"
	"time"
	"unsafe"
)

// ---- the binding ----

// Host runs functions. Everything of a host happens on one thread of the system, its owner: a
// goroutine that keeps a thread for itself does what the methods, which any goroutine may call,
// send it.
type Host struct {
	host  *C.tp_host
	turns chan func()
}

// Function is one that can be mapped.
type Function struct {
	host     *Host
	function *C.tp_function
}

// Failure is what an input has failed with.
type Failure struct {
	Kind, Message string
	Index         int // which input, from 0
}

func (f *Failure) Error() string { return fmt.Sprintf("%s (index %d)", f.Message, f.Index) }

// ErrTimeout: there was no result yet; the map goes on.
var ErrTimeout = errors.New("no result within this time")

func failed(err *C.tp_error) error { return errors.New(C.GoString(&err.message[0])) }

// Open opens a host with so many workers.
func Open(workers int) (*Host, error) {
	h := &Host{turns: make(chan func())}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // until it ends, and the thread with it
		var err C.tp_error
		config := C.tp_config{size: C.sizeof_tp_config, workers: C.int(workers)}
		if C.tp_host_open(&h.host, &config, &err) != 0 {
			opened <- failed(&err)
			return
		}
		opened <- nil
		for turn := range h.turns {
			turn()
		}
	}()
	if err := <-opened; err != nil {
		return nil, err
	}
	return h, nil
}

// do runs fn on the owner's thread.
func (h *Host) do(fn func()) {
	over := make(chan struct{})
	h.turns <- func() { fn(); close(over) }
	<-over
}

// Close ends the host. Nothing else may be called afterwards.
func (h *Host) Close() {
	h.do(func() { C.tp_host_close(h.host) })
	close(h.turns)
}

// Lua makes a function of Lua source.
func (h *Host) Lua(name, source string) (*Function, error) {
	f, err := &Function{host: h}, C.tp_error{}
	c_name, c_source := C.CString(name), C.CString(source)
	defer C.free(unsafe.Pointer(c_name))
	defer C.free(unsafe.Pointer(c_source))
	rc := C.int(0)
	h.do(func() { rc = C.tp_function_from_lua(&f.function, h.host, c_name, c_source, nil, &err) })
	if rc != 0 {
		return nil, failed(&err)
	}
	return f, nil
}

// Go makes a function of one in Go, which workers call, several at once.
func (h *Host) Go(name string, fn func(float64) (float64, error)) (*Function, error) {
	f, err := &Function{host: h}, C.tp_error{}
	c_name := C.CString(name)
	defer C.free(unsafe.Pointer(c_name))
	which := cgo.NewHandle(fn) // kept as long as the program runs
	rc := C.int(0)
	h.do(func() { rc = C.function_from_go(&f.function, h.host, c_name, C.uintptr_t(which), &err) })
	if rc != 0 {
		return nil, failed(&err)
	}
	return f, nil
}

//export goCall
func goCall(user unsafe.Pointer, call *C.tp_call, in *C.tp_value, n C.size_t) C.int {
	fn := cgo.Handle(uintptr(user)).Value().(func(float64) (float64, error))
	y, err := fn(float64(C.number_of(in)))
	if err != nil {
		message := C.CString(err.Error())
		defer C.free(unsafe.Pointer(message))
		return C.tp_call_fail(call, message)
	}
	result := C.tp_number(C.double(y))
	return C.tp_call_return(call, &result, 1)
}

// Map is a function running over inputs.
type Map struct {
	host   *Host
	handle *C.tp_map
	inputs []C.tp_value // read while it runs: in memory that C may keep
	memory unsafe.Pointer
}

// Map runs the function over numbers and strings.
func (f *Function) Map(inputs ...any) (*Map, error) {
	m, n := &Map{host: f.host}, len(inputs)
	m.memory = C.calloc(C.size_t(n+1), C.sizeof_tp_value)
	m.inputs = unsafe.Slice((*C.tp_value)(m.memory), n)
	for i, x := range inputs {
		switch x := x.(type) {
		case float64:
			m.inputs[i] = C.tp_number(C.double(x))
		case string:
			m.inputs[i] = C.tp_bytes(C.CString(x), C.size_t(len(x)))
		default:
			m.Close()
			return nil, fmt.Errorf("input %d: a %T has no counterpart here", i, x)
		}
	}
	var err C.tp_error
	rc := C.int(0)
	f.host.do(func() {
		rc = C.tp_map_values(&m.handle, f.function, (*C.tp_value)(m.memory), 1, C.size_t(n), nil, &err)
	})
	if rc != 0 {
		m.Close()
		return nil, failed(&err)
	}
	return m, nil
}

func value(v *C.tp_value) any {
	switch v.kind {
	case C.TP_BOOLEAN:
		return C.boolean_of(v) != 0
	case C.TP_NUMBER:
		return float64(C.number_of(v))
	case C.TP_BYTES:
		return C.GoStringN(C.bytes_of(v), C.int(v.n))
	}
	return nil
}

// Next waits for the next result at most so long; more is false at the end.
func (m *Map) Next(timeout time.Duration) (result any, more bool, err error) {
	m.host.do(func() {
		var r C.tp_result
		var why C.tp_error
		switch C.tp_map_next_timeout(m.handle, &r, C.uint(timeout.Milliseconds()), &why) {
		case C.TP_NEXT_RESULT:
			more = true
			if r.n > 0 {
				result = value(r.values)
			}
		case C.TP_NEXT_END:
		case C.TP_NEXT_TIMEOUT:
			more, err = true, ErrTimeout
		case C.TP_NEXT_FAILED:
			f := C.tp_map_failure(m.handle)
			err = &Failure{C.GoString(f.kind), C.GoString(f.message), int(f.index)}
		default:
			err = failed(&why)
		}
	})
	return
}

// All waits for all results. Others get their turns meanwhile.
func (m *Map) All() ([]any, error) {
	defer m.Close()
	var all []any
	for {
		result, more, err := m.Next(time.Millisecond)
		switch {
		case err == ErrTimeout:
		case err != nil:
			return nil, err
		case !more:
			return all, nil
		default:
			all = append(all, result)
		}
	}
}

// Close ends the map.
func (m *Map) Close() {
	if m.handle != nil {
		m.host.do(func() { C.tp_map_close(m.handle) })
	}
	for i := range m.inputs {
		if m.inputs[i].kind == C.TP_BYTES {
			C.free(unsafe.Pointer(C.bytes_of(&m.inputs[i])))
		}
	}
	C.free(m.memory)
	m.handle, m.inputs, m.memory = nil, nil, nil
}

// ---- a program ----

const collatz = `return function(x)
  local n, steps = x, 0
  if x < 1 or x % 1 ~= 0 then
    error "a whole number above 0, please"
  end
  while n ~= 1 do
    n, steps = n % 2 == 0 and n / 2 or 3 * n + 1, steps + 1
  end
  return steps
end`

const waitFor = `return function(path) -- of a file that is not there yet
  local file
  repeat file = io.open(path) until file
  file:close()
  return "done"
end`

func must[T any](x T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return x
}

func longest(steps *Function, below int) (from int, most float64) {
	var inputs []any
	for n := 1; n < below; n++ {
		inputs = append(inputs, float64(n))
	}
	for i, each := range must(must(steps.Map(inputs...)).All()) {
		if each.(float64) > most {
			from, most = i+1, each.(float64)
		}
	}
	return
}

func main() {
	host := must(Open(2))
	steps := must(host.Lua("collatz", collatz))

	// Three goroutines use the host at once.
	var lines [3]string
	var all sync.WaitGroup
	for k := range lines {
		all.Add(1)
		go func(k int) {
			defer all.Done()
			below := 30000 * (k + 1)
			from, most := longest(steps, below)
			lines[k] = fmt.Sprintf("below %d the longest way to 1 has %g steps, from %d", below, most, from)
		}(k)
	}
	all.Wait()
	for _, line := range lines {
		fmt.Println(line)
	}

	steps_in_go := must(host.Go("collatz in Go", func(x float64) (float64, error) {
		n, count := int64(x), 0.0
		for ; n != 1; count++ {
			if n%2 == 0 {
				n /= 2
			} else {
				n = 3*n + 1
			}
		}
		return count, nil
	}))
	from, most := longest(steps_in_go, 30000)
	fmt.Println("in Go the same:", from == 26623 && most == 307)

	_, err := must(steps.Map(1.0, 2.0, 0.5, 4.0)).All()
	fmt.Println("failed:", err)

	folder := must(os.MkdirTemp("", "collatz"))
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "go")
	wait := must(must(host.Lua("wait_for", waitFor)).Map(path))
	if _, _, err := wait.Next(20 * time.Millisecond); err == ErrTimeout {
		os.WriteFile(path, nil, 0o600)
		fmt.Println("nothing within 20ms; later:", must(wait.All()))
	}
	host.Close()
}
