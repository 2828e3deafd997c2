//! The driver of a CUDA card, found when it is asked for.
//!
//! Copies go through pages that the card reads and writes by itself; large ones on all threads of the pool, since it is the
//! processor's part of a copy that takes time. Each thread has the stream that CUDA keeps for it, so work of one thread is in order and that of several overlaps.
#![expect(unsafe_code, reason = "calls of the driver, each with the reason why it may be made")]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, result, sys};
use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::driver::{Argument, Driver, Fault, Shape};

/// Values that are copied at once.
const PIECE: usize = 1 << 20;

/// Pieces from which on all threads copy.
const MANY: usize = 4;

/// The kernels, compiled when a card is opened.
const SOURCE: &str = include_str!("dense.cu");

/// The names of the kernels in it.
const KERNELS: [&str; 10] = [
    "product_128_nn",
    "product_128_nt",
    "product_128_tn",
    "product_128_tt",
    "product_64_nn",
    "product_64_nt",
    "product_64_tn",
    "product_64_tt",
    "corner",
    "invert",
];

/// A card with its kernels.
pub struct Cuda {
    context: Arc<CudaContext>,
    kernels: HashMap<&'static str, CudaFunction>,
    shared: usize,
    /// Idle ones.
    pages: Mutex<Vec<Pages>>,
    /// The kernels are of it.
    _module: Arc<CudaModule>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cuda").field(&self.context.ordinal()).finish()
    }
}

/// How many cards there are.
///
/// # Errors
/// If there is no driver or no compiler for kernels, with what was looked for.
pub fn count() -> Result<usize, Fault> {
    // A static program has no loader of libraries.
    if cfg!(all(target_os = "linux", target_feature = "crt-static")) {
        let problem = "this program is linked statically, and cannot load the CUDA driver; the wheel and what cargo \
                       builds for GNU can";
        return Err(Fault(problem.to_owned()));
    }
    // SAFETY: loads libraries of these names, which run nothing when they are loaded but what the system's own do.
    let (driver, compiler) = unsafe { (sys::is_culib_present(), cudarc::nvrtc::sys::is_culib_present()) };
    if !driver {
        let problem =
            "no CUDA driver here (libcuda.so.1 was looked for where the system looks for libraries)";
        return Err(Fault(problem.to_owned()));
    }
    let count = CudaContext::device_count().map_err(|e| fault("count the cards", e))?;
    if count > 0 && !compiler {
        let problem = "a CUDA driver, but not NVRTC, which compiles the kernels (libnvrtc.so, .so.13, .so.12 and .so.11 were \
                       looked for; it is in the CUDA toolkit and in the Python package nvidia-cuda-nvrtc: set LD_LIBRARY_PATH \
                       to its folder)";
        return Err(Fault(problem.to_owned()));
    }
    Ok(count as usize)
}

impl Cuda {
    /// Opens a card and compiles the kernels for it: a second or two.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn open(ordinal: usize) -> Result<Self, Fault> {
        let context = CudaContext::new(ordinal).map_err(|e| fault("open the card", e))?;
        let (major, minor) =
            context.compute_capability().map_err(|e| fault("ask the card what it can do", e))?;
        let options = CompileOptions {
            // No product and sum becomes one that is not written as one, and none is computed less than exactly rounded.
            fmad: Some(false),
            ftz: Some(false),
            prec_div: Some(true),
            prec_sqrt: Some(true),
            name: Some("dense.cu".to_owned()),
            options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
            ..CompileOptions::default()
        };
        let compiled = compile_ptx_with_opts(SOURCE, options).map_err(|e| {
            Fault(match e {
                CompileError::CompileError { log, .. } => {
                    format!("the card's kernels do not compile: {}", log.to_string_lossy())
                }
                other => format!("the card's kernels do not compile: {other}"),
            })
        })?;
        let module = context.load_module(compiled).map_err(|e| fault("load the kernels", e))?;
        let kernel = |name: &'static str| {
            let function =
                module.load_function(name).map_err(|e| fault(&format!("find the kernel {name}"), e))?;
            Ok((name, function))
        };
        let kernels = KERNELS.into_iter().map(kernel).collect::<Result<HashMap<_, _>, Fault>>()?;
        // A block has more than 48 KB only if the kernel is said to need it.
        let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared = context.attribute(most).map_err(|e| fault("ask for the card's shared memory", e))?;
        kernels["corner"]
            .set_attribute(sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
            .map_err(|e| fault("have the card's shared memory", e))?;
        if context.has_async_alloc() {
            let mut keep = u64::MAX;
            // SAFETY: the pool is the device's own, and the attribute a u64 that is read during the call.
            let kept = unsafe {
                result::device::get_mem_pool(context.cu_device()).and_then(|pool| {
                    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                    result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast())
                })
            };
            kept.map_err(|e| fault("keep the card's memory", e))?;
        }
        Ok(Self { context, kernels, shared: shared as usize, pages: Mutex::default(), _module: module })
    }

    /// The card's name.
    pub fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| format!("card {}", self.context.ordinal()))
    }

    /// Bytes of its memory that are free.
    ///
    /// # Errors
    /// If it does not say.
    pub fn free_memory(&self) -> Result<u64, Fault> {
        let (free, _) = self.context.mem_get_info().map_err(|e| fault("ask for the card's memory", e))?;
        Ok(free as u64)
    }

    /// Lends so many values of pages that the card can read and write.
    fn with_pages(
        &self,
        values: usize,
        work: impl FnOnce(&mut [f32]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.bind()?;
        let idle = self.pages.lock().expect("no thread panics while it takes pages").pop();
        let mut pages = match idle.filter(|pages| pages.values >= values) {
            Some(pages) => pages,
            None => Pages::new(&self.context, values.max(PIECE))?,
        };
        let done = work(&mut pages.values_mut()[..values]);
        self.pages.lock().expect("no thread panics while it gives pages back").push(pages);
        done
    }

    /// Waits for what this thread has asked for.
    fn wait(&self) -> Result<(), Fault> {
        self.bind()?;
        // SAFETY: the stream is this thread's own.
        unsafe { result::stream::synchronize(stream()) }.map_err(|e| fault("compute on the card", e))
    }

    fn bind(&self) -> Result<(), Fault> {
        self.context.bind_to_thread().map_err(|e| fault("use the card", e))
    }
}

/// Memory of the processor that stays where it is, so that the card can read and write it.
struct Pages {
    /// What can free it.
    context: Arc<CudaContext>,
    first: *mut f32,
    values: usize,
}

// SAFETY: memory that one of them alone points to.
unsafe impl Send for Pages {}

impl Pages {
    fn new(context: &Arc<CudaContext>, values: usize) -> Result<Self, Fault> {
        // SAFETY: plain memory, for any use.
        let first = unsafe { result::malloc_host(values * 4, 0) };
        let first = first.map_err(|e| fault("have memory for copies", e))?.cast::<f32>();
        // SAFETY: so many bytes are there; zeros are numbers.
        unsafe { first.write_bytes(0, values) };
        Ok(Self { context: context.clone(), first, values })
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: so many numbers are there, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.values) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it is from `malloc_host`, and copies were waited for.
            let _ = unsafe { result::free_host(self.first.cast()) };
        }
    }
}

/// The stream of the calling thread: CU_STREAM_PER_THREAD.
fn stream() -> sys::CUstream {
    std::ptr::without_provenance_mut(2)
}

/// So many rows and columns, from nowhere to nowhere.
fn bytes_of(rows: usize, columns: usize) -> sys::CUDA_MEMCPY2D {
    sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: std::ptr::null(),
        srcDevice: 0,
        srcArray: std::ptr::null_mut(),
        srcPitch: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        dstHost: std::ptr::null_mut(),
        dstDevice: 0,
        dstArray: std::ptr::null_mut(),
        dstPitch: 0,
        WidthInBytes: columns * 4,
        Height: rows,
    }
}

/// Copies, and waits for it.
///
/// # Safety
/// What it says must be there, in the card's memory and in the processor's.
unsafe fn copied(copy: &sys::CUDA_MEMCPY2D) -> Result<(), result::DriverError> {
    // SAFETY: as the caller says; nothing is moved before the second call returns.
    unsafe {
        sys::cuMemcpy2DAsync_v2(copy, stream()).result()?;
        result::stream::synchronize(stream())
    }
}

fn fault(what: &str, error: result::DriverError) -> Fault {
    Fault(format!("cannot {what}: {error}"))
}

impl Driver for Cuda {
    fn allocate(&self, bytes: usize) -> Result<u64, Fault> {
        self.bind()?;
        // SAFETY: nothing reads the memory before something was written there: `Card` sees to it. Other threads may use it: it
        // is theirs as well when this thread's stream has come to it.
        let place = unsafe {
            if self.context.has_async_alloc() {
                result::malloc_async(stream(), bytes)
                    .and_then(|place| result::stream::synchronize(stream()).map(|()| place))
            } else {
                result::malloc_sync(bytes)
            }
        };
        place.map_err(|e| fault(&format!("have {bytes} bytes of the card's memory"), e))
    }

    fn free(&self, place: u64) {
        if self.bind().is_err() {
            return;
        }
        // SAFETY: the place is from `allocate`, and is freed once: it is a `Matrix`'s that ends. Work with it is waited for, in
        // `download`, before the matrix ends. A card that cannot free its memory any more says so at the next call.
        let _ = unsafe {
            if self.context.has_async_alloc() {
                result::free_async(place, stream())
            } else {
                result::free_sync(place)
            }
        };
    }

    fn upload(&self, place: u64, apart: usize, values: &[f32], rows: Shape) -> Result<(), Fault> {
        assert!(values.len() >= rows.extent(), "{} values, {rows:?}", values.len());
        let piece = |first: usize, count: usize| {
            self.with_pages(count * rows.columns, |pages| {
                for (row, to) in pages.chunks_exact_mut(rows.columns).enumerate() {
                    to.copy_from_slice(&values[(first + row) * rows.apart..][..rows.columns]);
                }
                let copy = sys::CUDA_MEMCPY2D {
                    srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                    srcHost: pages.as_ptr().cast(),
                    srcPitch: rows.columns * 4,
                    dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                    dstDevice: place + 4 * (first * apart) as u64,
                    dstPitch: apart * 4,
                    ..bytes_of(count, rows.columns)
                };
                // SAFETY: the matrix at the place has these rows, so far apart; the pages are as long.
                unsafe { copied(&copy) }.map_err(|e| fault("copy to the card", e))
            })
        };
        let height = (PIECE / rows.columns).max(1);
        let pieces = rows.rows.div_ceil(height);
        let piece = |i: usize| piece(i * height, height.min(rows.rows - i * height));
        if pieces < MANY {
            (0..pieces).try_for_each(piece)
        } else {
            (0..pieces).into_par_iter().try_for_each(piece)
        }
    }

    fn download(&self, place: u64, apart: usize, values: &mut [f32], rows: Shape) -> Result<(), Fault> {
        assert!(values.len() >= rows.extent(), "{} values, {rows:?}", values.len());
        self.wait()?;
        let piece = |first: usize, values: &mut [f32]| {
            let count = values.len().div_ceil(rows.apart);
            self.with_pages(count * rows.columns, |pages| {
                let copy = sys::CUDA_MEMCPY2D {
                    srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
                    srcDevice: place + 4 * (first * apart) as u64,
                    srcPitch: apart * 4,
                    dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
                    dstHost: pages.as_mut_ptr().cast(),
                    dstPitch: rows.columns * 4,
                    ..bytes_of(count, rows.columns)
                };
                // SAFETY: the matrix at the place has these rows, so far apart; the pages are as long.
                unsafe { copied(&copy) }.map_err(|e| fault("copy from the card", e))?;
                for (values, from) in values.chunks_mut(rows.apart).zip(pages.chunks_exact(rows.columns)) {
                    values[..rows.columns].copy_from_slice(from);
                }
                Ok(())
            })
        };
        let height = (PIECE / rows.columns).max(1);
        let values = &mut values[..rows.extent()];
        if rows.rows.div_ceil(height) < MANY {
            let mut pieces = values.chunks_mut(height * rows.apart).enumerate();
            pieces.try_for_each(|(i, values)| piece(i * height, values))
        } else {
            let pieces = values.par_chunks_mut(height * rows.apart).enumerate();
            pieces.try_for_each(|(i, values)| piece(i * height, values))
        }
    }

    fn shared(&self) -> usize {
        self.shared
    }

    fn launch(
        &self,
        kernel: &str,
        blocks: [usize; 2],
        threads: usize,
        shared: usize,
        arguments: &[Argument],
    ) -> Result<(), Fault> {
        self.bind()?;
        let mut pointers: Vec<*mut std::ffi::c_void> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Place(place) => std::ptr::from_ref(place).cast_mut().cast(),
                Argument::Number(number) => std::ptr::from_ref(number).cast_mut().cast(),
            })
            .collect();
        let [across, down] = blocks.map(|n| n as u32);
        // SAFETY: the arguments are those of the kernel, in its order, and are copied during the call; the places are matrices
        // of the shapes that go with them: `Card` sees to it.
        unsafe {
            result::launch_kernel(
                self.kernels[kernel].cu_function(),
                (across, down, 1),
                (threads as u32, 1, 1),
                shared as u32,
                stream(),
                &mut pointers,
            )
        }
        .map_err(|e| fault(&format!("start the kernel {kernel}"), e))
    }
}
