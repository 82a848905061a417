// http ADDRESS: requests of Go's own client over one kept connection; prints what came of them as JSON. Go speaks
// HTTP/1.1 here, and HTTP/2 without TLS with `http ADDRESS h2c`.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"time"
)

// outcome is what came of the requests.
type outcome struct {
	Proto     string `json:"proto"`
	Statuses  []int  `json:"statuses"`
	Reused    int    `json:"reused"`
	Continued bool   `json:"continued"`
	Uploaded  string `json:"uploaded"`
	Trailer   string `json:"trailer"`
}

func run() error {
	if len(os.Args) < 2 {
		return errors.New("http ADDRESS [h2c]")
	}
	base := "http://" + os.Args[1]
	transport := &http.Transport{ExpectContinueTimeout: 10 * time.Second}
	if len(os.Args) > 2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var all outcome
	trace := &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if info.Reused {
				all.Reused++
			}
		},
		Got100Continue: func() { all.Continued = true },
	}
	ask := func(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, string, error) {
		request, err := http.NewRequest(method, base+path, body)
		if err != nil {
			return nil, "", err
		}
		request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
		if change != nil {
			change(request)
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, "", fmt.Errorf("%s %s: %w", method, path, err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, "", fmt.Errorf("%s %s: %w", method, path, err)
		}
		all.Statuses = append(all.Statuses, response.StatusCode)
		all.Proto = response.Proto
		return response, string(text), nil
	}
	for _, method := range []string{"GET", "HEAD", "GET"} {
		if _, _, err := ask(method, "/", nil, nil); err != nil {
			return err
		}
	}
	// Of unknown length: chunked, or frames without a length; with a trailer, and asking first.
	body := struct{ io.Reader }{strings.NewReader(strings.Repeat("y", 70_000))}
	response, text, err := ask("POST", "/upload", body, func(request *http.Request) {
		request.Header.Set("Expect", "100-continue")
		request.Header.Set("TE", "trailers")
		request.Trailer = http.Header{"X-Sum": {"70000"}}
	})
	if err != nil {
		return err
	}
	all.Uploaded, all.Trailer = text, response.Trailer.Get("X-Seen")
	return json.NewEncoder(os.Stdout).Encode(all)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
