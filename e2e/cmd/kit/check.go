package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"
)

// serve [-api GROUP/VERSION] ADDRESS answers every request with the host's name and ADDRESS; with -api it is an
// extension API server without resources, over HTTPS with a certificate of its own.
func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	api := flags.String("api", "", "GROUP/VERSION of an extension API")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: kit serve [-api GROUP/VERSION] ADDRESS")
	}
	address := flags.Arg(0)
	if *api == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%s answers on %s\n", host, address)
		}))
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/apis/"+*api, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":%q,"resources":[]}`, *api)
	})
	server := &http.Server{Addr: address, Handler: routes, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	return server.ListenAndServeTLS("", "")
}

// selfSigned is a certificate for a day that nobody is asked to trust.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// get [-within DURATION] [-text TEXT] URL asks until the answer is 200 and holds TEXT, and prints it. Certificates
// are not verified: it asks whether something answers, not who.
func get(args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	within := flags.Duration("within", 0, "how long to go on asking; 0 asks once")
	text := flags.String("text", "", "what the answer must hold")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: kit get [-within DURATION] [-text TEXT] URL")
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, // each try is a connection of its own
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	deadline := time.Now().Add(*within)
	for {
		body, err := ask(&client, flags.Arg(0))
		if err == nil && strings.Contains(body, *text) {
			fmt.Print(body)
			return nil
		}
		if !time.Now().Before(deadline) {
			if err == nil {
				err = fmt.Errorf("%q is not in the answer %q", *text, body)
			}
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ask returns the body of a 200 answer, of at most 1 MiB.
func ask(client *http.Client, url string) (string, error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
