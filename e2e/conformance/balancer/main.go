// Command balancer plays the provider of load balancers for a cluster of one node: each Service of type LoadBalancer gets
// an address of its own, which kube-proxy on the node then serves. KUBECONFIG names the cluster.
//
//	balancer 198.51.100.0/24
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "balancer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: balancer NETWORK")
	}
	network, err := netip.ParsePrefix(os.Args[1])
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// A watch that ends, for whatever reason, begins with a list again.
		if err := follow(ctx, client, network); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "balancer:", err)
			time.Sleep(time.Second)
		}
	}
	return nil
}

// follow serves every Service that there is and then each that comes, until the watch ends.
func follow(ctx context.Context, client kubernetes.Interface, network netip.Prefix) error {
	all := client.CoreV1().Services(meta.NamespaceAll)
	list, err := all.List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	taken := map[netip.Addr]string{}
	for i := range list.Items {
		note(taken, &list.Items[i])
	}
	for i := range list.Items {
		if err := serve(ctx, client, network, taken, &list.Items[i]); err != nil {
			return err
		}
	}
	watch, err := all.Watch(ctx, meta.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		service, ok := event.Object.(*core.Service)
		if !ok {
			return fmt.Errorf("the watch says %v", event.Object)
		}
		if event.Type == "DELETED" {
			for address, owner := range taken {
				if owner == name(service) {
					delete(taken, address)
				}
			}
			continue
		}
		if err := serve(ctx, client, network, taken, service); err != nil {
			return err
		}
	}
	return nil
}

func name(service *core.Service) string { return service.Namespace + "/" + service.Name }

func note(taken map[netip.Addr]string, service *core.Service) {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			taken[address] = name(service)
		}
	}
}

// serve assigns an address where one is asked for and none is there: that of loadBalancerIP where it has one, none where
// that is not to be had.
func serve(ctx context.Context, client kubernetes.Interface, network netip.Prefix, taken map[netip.Addr]string, service *core.Service) error {
	if service.Spec.Type != core.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 {
		return nil
	}
	free := func(address netip.Addr) bool { return taken[address] == "" || taken[address] == name(service) }
	address := network.Addr().Next()
	if asked := service.Spec.LoadBalancerIP; asked != "" {
		var err error
		if address, err = netip.ParseAddr(asked); err != nil || !network.Contains(address) || !free(address) {
			fmt.Println(name(service), "cannot have", asked)
			return nil
		}
	}
	for !free(address) {
		address = address.Next()
	}
	if !network.Contains(address) {
		return fmt.Errorf("no address of %v is free for %s", network, name(service))
	}
	taken[address] = name(service)
	update := service.DeepCopy()
	update.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{IP: address.String()}}
	_, err := client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, update, meta.UpdateOptions{})
	if err == nil {
		fmt.Println(name(service), address)
	}
	// Gone or changed meanwhile: the watch says so next.
	return ignore(err)
}

func ignore(err error) error {
	if errors.IsNotFound(err) || errors.IsConflict(err) {
		return nil
	}
	return err
}
