// grpc: a server of gRPC and a client that talks to it, over connections without TLS.
//
//	grpc serve ADDRESS          health, and the echo of grpc.testing.TestService
//	grpc call ADDRESS           one call of each shape; prints what came of it as JSON
//	grpc refused ADDRESS        one call that a policy refuses; prints the code and the message
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// patience is how long anything may take.
const patience = 30 * time.Second

// echo answers what it is sent.
type echo struct {
	grpc_testing.UnimplementedTestServiceServer
}

// EmptyCall answers nothing; it is the call that the policy of the tests refuses.
func (echo) EmptyCall(context.Context, *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	return &grpc_testing.Empty{}, nil
}

// UnaryCall answers with the payload, and the metadata it was called with as a trailer.
func (echo) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	called, _ := metadata.FromIncomingContext(ctx)
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-via", strings.Join(called.Get("via"), ", "))); err != nil {
		return nil, err
	}
	if in.GetResponseStatus().GetCode() != 0 {
		return nil, status.Error(codes.Code(in.ResponseStatus.Code), in.ResponseStatus.Message)
	}
	return &grpc_testing.SimpleResponse{Payload: in.Payload}, nil
}

// FullDuplexCall answers each message with one.
func (echo) FullDuplexCall(stream grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: in.Payload}); err != nil {
			return err
		}
	}
}

// StreamingOutputCall answers as many messages of the size as it is asked for.
func (echo) StreamingOutputCall(in *grpc_testing.StreamingOutputCallRequest, stream grpc_testing.TestService_StreamingOutputCallServer) error {
	for _, parameters := range in.ResponseParameters {
		payload := &grpc_testing.Payload{Body: make([]byte, parameters.Size)}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{Payload: payload}); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall answers how many bytes it was sent.
func (echo) StreamingInputCall(stream grpc_testing.TestService_StreamingInputCallServer) error {
	var size int
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(in.GetPayload().GetBody())
	}
}

func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, echo{})
	checks := health.NewServer()
	checks.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, checks)
	fmt.Println("listening")
	return server.Serve(listener)
}

// outcome is what came of the calls.
type outcome struct {
	Unary      int    `json:"unary"`
	Via        string `json:"via"`
	Code       string `json:"code"`
	Message    string `json:"message"`
	Down       int    `json:"down"`
	Up         int    `json:"up"`
	PingPong   int    `json:"pingPong"`
	Cancelled  string `json:"cancelled"`
	DeadlineAt string `json:"deadline"`
}

func call(ctx context.Context, client grpc_testing.TestServiceClient) (outcome, error) {
	var all outcome
	payload := &grpc_testing.Payload{Body: bytes.Repeat([]byte("x"), 100_000)}

	var trailer metadata.MD
	answer, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: payload}, grpc.Trailer(&trailer))
	if err != nil {
		return all, fmt.Errorf("unary: %w", err)
	}
	all.Unary, all.Via = len(answer.Payload.Body), strings.Join(trailer.Get("x-via"), ", ")

	wish := &grpc_testing.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not 100% ready\n"}
	_, err = client.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: wish})
	all.Code, all.Message = status.Code(err).String(), status.Convert(err).Message()

	var sizes []*grpc_testing.ResponseParameters
	for range 50 {
		sizes = append(sizes, &grpc_testing.ResponseParameters{Size: 50_000})
	}
	down, err := client.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: sizes})
	if err != nil {
		return all, fmt.Errorf("down: %w", err)
	}
	for {
		message, err := down.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return all, fmt.Errorf("down: %w", err)
		}
		all.Down += len(message.Payload.Body)
	}

	up, err := client.StreamingInputCall(ctx)
	if err != nil {
		return all, fmt.Errorf("up: %w", err)
	}
	for range 25 {
		if err := up.Send(&grpc_testing.StreamingInputCallRequest{Payload: payload}); err != nil {
			return all, fmt.Errorf("up: %w", err)
		}
	}
	sum, err := up.CloseAndRecv()
	if err != nil {
		return all, fmt.Errorf("up: %w", err)
	}
	all.Up = int(sum.AggregatedPayloadSize)

	// Each message waits for the answer to the one before: nothing on the way may hold a half stream back.
	both, err := client.FullDuplexCall(ctx)
	if err != nil {
		return all, fmt.Errorf("both: %w", err)
	}
	for n := range 100 {
		word := &grpc_testing.Payload{Body: []byte(fmt.Sprint("ping ", n))}
		if err := both.Send(&grpc_testing.StreamingOutputCallRequest{Payload: word}); err != nil {
			return all, fmt.Errorf("both: %w", err)
		}
		back, err := both.Recv()
		if err != nil {
			return all, fmt.Errorf("both: %w", err)
		}
		if bytes.Equal(back.Payload.Body, word.Body) {
			all.PingPong++
		}
	}
	if err := both.CloseSend(); err != nil {
		return all, fmt.Errorf("both: %w", err)
	}
	if _, err := both.Recv(); !errors.Is(err, io.EOF) {
		return all, fmt.Errorf("both: the end is %w", err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	stream, err := client.FullDuplexCall(cancelled)
	if err != nil {
		return all, fmt.Errorf("cancelled: %w", err)
	}
	cancel()
	_, err = stream.Recv()
	all.Cancelled = status.Code(err).String()

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	stream, err = client.FullDuplexCall(short)
	if err == nil {
		_, err = stream.Recv()
	}
	all.DeadlineAt = status.Code(err).String()
	return all, nil
}

func run() error {
	if len(os.Args) != 3 {
		return errors.New("grpc serve|call|refused ADDRESS")
	}
	verb, address := os.Args[1], os.Args[2]
	if verb == "serve" {
		return serve(address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := grpc_testing.NewTestServiceClient(connection)
	switch verb {
	case "call":
		all, err := call(ctx, client)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(all)
	case "refused":
		_, err := client.EmptyCall(ctx, &grpc_testing.Empty{})
		said := map[string]string{"code": status.Code(err).String(), "message": status.Convert(err).Message()}
		return json.NewEncoder(os.Stdout).Encode(said)
	default:
		return fmt.Errorf("%s is neither serve, call nor refused", verb)
	}
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
